"""Prints the processor time of a feed-forward part on one core, by the precision of its products.

python dev/measure_feed_forward.py [--hidden 1024] [--tokens 4096] [--turns 8]

The precisions take turns; the times are medians. The weights are random, of 256 channels.
"""

# ruff: noqa: T201
from __future__ import annotations

import argparse
import statistics
import time

import torch
from torch import nn

from lite_focus_detr.optimization.detector import has_bfloat16, has_int8
from lite_focus_detr.optimization.packed_layers import PackedFeedForward, QuantizedFeedForward
from lite_focus_detr.tools.benchmark.measure import processor

CHANNELS = 256


def make_parts(hidden: int) -> dict[str, nn.Module]:
    """The same feed-forward part in every precision that the processor has."""
    layers = nn.Linear(CHANNELS, hidden), nn.ReLU(), nn.Linear(hidden, CHANNELS)
    parts: dict[str, nn.Module] = {"float32": PackedFeedForward(*layers, torch.float32)}
    if has_bfloat16():
        parts["bfloat16"] = PackedFeedForward(*layers, torch.bfloat16)
    if has_int8():
        parts["int8"] = QuantizedFeedForward(*layers)
    return parts


@torch.inference_mode()
def measure(parts: dict[str, nn.Module], tokens: int, turns: int) -> dict[str, float]:
    """Median seconds of processor time of each part, after one turn that does not count."""
    x = torch.randn(tokens, CHANNELS)
    seconds: dict[str, list[float]] = {name: [] for name in parts}
    for _ in range(turns + 1):
        for name, part in parts.items():
            start = time.process_time()
            part(x)
            seconds[name].append(time.process_time() - start)
    return {name: statistics.median(values[1:]) for name, values in seconds.items()}


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--hidden", type=int, default=1024, help="channels; default 1024")
    parser.add_argument("--tokens", type=int, default=4096, help="default 4096")
    parser.add_argument("--turns", type=int, default=8, help="default 8")
    args = parser.parse_args()
    torch.set_num_threads(1)
    print(processor())
    for name, seconds in measure(make_parts(args.hidden), args.tokens, args.turns).items():
        print(f"{name:9}{1e3 * seconds:6.1f} ms")


if __name__ == "__main__":
    main()
