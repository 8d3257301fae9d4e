"""Speed of multi-scale attention against grid_sample for the layouts of many detectors.

    python dev/measure_layouts.py --channels 32 --rounds 9

Levels and points vary, and the number of levels also changes what grid_sample takes. Both take
turns in every round; ratios are medians over the rounds.
"""

# ruff: noqa: T201
from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable

import torch
from tabulate import tabulate
from torch import Tensor

from lite_focus_detr import ops
from lite_focus_detr.ops import reference
from lite_focus_detr.ops.reference import SpatialShapes

SHAPES = ((64, 96), (32, 48), (16, 24), (8, 12), (4, 6))
#: Levels and points of a level.
LAYOUTS = ((4, 4), (1, 2), (4, 1), (4, 2), (4, 3), (3, 4), (5, 4), (4, 5))
QUERIES, HEADS = 4000, 8

Attention = Callable[[Tensor, SpatialShapes, Tensor, Tensor], Tensor]


def seconds(
    attention: Attention, shapes: SpatialShapes, tensors: tuple[Tensor, ...], backward: bool
) -> float:
    """Processor time of a call, which a busy machine disturbs less than the clock."""
    value, locations, weights = (tensor.detach().requires_grad_(backward) for tensor in tensors)
    start = time.process_time()
    output = attention(value, shapes, locations, weights)
    if backward:
        torch.autograd.grad(output.sum(), (value, locations, weights))
    return time.process_time() - start


def main(argv: list[str] | None = None) -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--channels", type=int, default=32, help="of a head")
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args(argv)
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    rows: list[list[object]] = []
    for levels, points in LAYOUTS:
        shapes = SHAPES[:levels]
        tokens = sum(height * width for height, width in shapes)
        value = torch.randn(1, tokens, HEADS, options.channels, generator=generator)
        size = (1, QUERIES, HEADS, levels, points)
        locations = 0.5 + 0.3 * torch.randn(*size, 2, generator=generator)
        weights = torch.rand(size, generator=generator)
        row: list[object] = [levels, points, levels * points]
        for backward in (False, True):
            pairs = [
                tuple(
                    seconds(attention, shapes, (value, locations, weights), backward)
                    for attention in (
                        ops.multi_scale_deformable_attention,
                        reference.multi_scale_deformable_attention,
                    )
                )
                for _ in range(options.rounds)
            ]
            row.append(1e3 * statistics.median(own for own, _ in pairs))
            row.append(statistics.median(other / own for own, other in pairs))
        rows.append(row)
    headers = ["levels", "points", "in all", "forward, ms", "ratio", "gradients, ms", "ratio"]
    print(tabulate(rows, headers=headers, floatfmt=".1f"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
