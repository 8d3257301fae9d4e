"""Time and memory of the encoders against the dense one, with native operators and without.

    python -m lite_focus_detr.tools.benchmark encoder [--rounds 5] [--train] [--config-file NAME]

Only the encoder runs, on random feature levels of the size that the image gives. The rounds are
interleaved: in each every encoder runs once with every kind of operators, so that a change of the
machine's speed meets all of them.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import torch
from detectron2.structures import ImageList
from tabulate import tabulate
from torch import Tensor

from .. import model_zoo, ops
from ..modeling import DetectionTransformer
from ..modeling.tokens import FeatureTokens
from ..ops.native import ENVIRONMENT_VARIABLE
from .peak_memory import peak_memory

#: The dense encoder first: the others are compared with it.
CONFIGS = (
    "deformable_detr/dino_r50_36ep",
    "lite_dino_h2l2_2p1x3_r50_36ep",
    "lite_dino_h3l1_6p1x1_r50_36ep",
    "lite_dino_h3l1_3p1x2_r50_36ep",
    "lite_dino_h3l1_2p1x3_r50_36ep",
    "lite_dino_h2l2_2p1x3_plain_r50_36ep",
    "lite_dino_h3l1_6p1x1_plain_r50_36ep",
    "lite_dino_h3l1_3p1x2_plain_r50_36ep",
    "lite_dino_h3l1_2p1x3_plain_r50_36ep",
    "focus_dino_r50_36ep_keep10",
    "focus_dino_r50_36ep_keep20",
    "focus_detr/focus_dino_r50_36ep",
    "focus_dino_r50_36ep_keep40",
    "focus_dino_r50_36ep_keep50",
)


class Measurement(NamedTuple):
    """One encoder with one kind of operators."""

    seconds: float  #: median wall-clock time of the rounds
    cpu_seconds: float  #: median processor time of the rounds
    peak_bytes: int | None  #: most memory above that of weights and input; None if unknown


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.add_argument("--config-file", action="append", help="name; the first is compared with")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--train", action="store_true", help="forward and backward pass")
    parser.add_argument("--image-size", type=int, nargs=2, default=(800, 1333))
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=0, help="0: as many as PyTorch chooses")
    parser.add_argument("--native-only", action="store_true", help="leave the reference out")


def run(args: argparse.Namespace) -> None:
    """Measure and print the table."""
    names = args.config_file or CONFIGS
    steps = {name: make_step(name, args.image_size, args.device, args.train) for name in names}
    kinds = [ops.backend(args.device)]
    if kinds != ["reference"] and not args.native_only:
        kinds.append("reference")
    measured = measure(steps, kinds, args.rounds, args.device)
    height, width = args.image_size
    what = "training step" if args.train else "inference"
    threads = torch.get_num_threads()
    print(
        f"Encoder, {what}, one image of {height}x{width}, {args.device}, {threads} threads, "
        f"median of {args.rounds} interleaved rounds"
    )
    print(table(measured, list(names), kinds))


def make_step(
    name: str, image_size: Sequence[int], device: str, train: bool
) -> Callable[[], object]:
    """A function that runs the encoder of a configuration once.

    Args:
        name: configuration in the model zoo.
        image_size: (height, width) of the image that the feature levels belong to.
        device: where to run.
        train: with gradients of the encoder's weights and of its input.
    """
    model = model_zoo.get(name, device=device).train(train)
    assert isinstance(model, DetectionTransformer)
    encoder, head = model.encoder, model.proposal_head
    tokens = make_tokens(model, image_size)

    def infer() -> Tensor:
        with torch.inference_mode():
            return encoder(tokens, head).memory

    def learn() -> None:
        encoder.zero_grad()
        features = tokens.features.detach().requires_grad_()
        encoder(tokens._replace(features=features), head).memory.sum().backward()

    return learn if train else infer


@torch.no_grad()
def make_tokens(model: DetectionTransformer, image_size: Sequence[int]) -> FeatureTokens:
    """Random feature levels of one image, each half the size of the one before, rounded up."""
    height, width = image_size
    random = torch.Generator().manual_seed(0)
    levels = []
    for level in range(len(model.tokens.input_proj)):
        shape = [-(-size // 2 ** (level + 3)) for size in (height, width)]
        levels.append(torch.randn(1, model.tokens.level_embed.shape[1], *shape, generator=random))
    image = torch.empty(1, 3, height, width, device="meta")
    return model.tokens([x.to(model.device) for x in levels], ImageList(image, [(height, width)]))


def measure(
    steps: dict[str, Callable[[], object]], kinds: Sequence[str], rounds: int, device: str
) -> dict[tuple[str, str], Measurement]:
    """Run every step with every kind of operators in each round, after one round for memory."""
    times: dict[tuple[str, str], list[tuple[float, float]]] = {}
    peaks = {}
    for index in range(rounds + 1):
        for name, step in steps.items():
            for kind in kinds:
                with _operators(kind):
                    if index == 0:
                        step()
                        peaks[name, kind] = peak_memory(step, device)
                    else:
                        times.setdefault((name, kind), []).append(_time(step, device))
    return {key: _median(runs, peaks[key]) for key, runs in times.items()}


def _median(runs: Sequence[tuple[float, float]], peak_bytes: int | None) -> Measurement:
    wall, cpu = zip(*runs, strict=True)
    return Measurement(statistics.median(wall), statistics.median(cpu), peak_bytes)


@contextmanager
def _operators(kind: str) -> Iterator[None]:
    before = os.environ.pop(ENVIRONMENT_VARIABLE, None)
    if kind == "reference":
        os.environ[ENVIRONMENT_VARIABLE] = kind
    yield
    os.environ.pop(ENVIRONMENT_VARIABLE, None)
    if before is not None:
        os.environ[ENVIRONMENT_VARIABLE] = before


def _time(step: Callable[[], object], device: str) -> tuple[float, float]:
    start, cpu_start = time.perf_counter(), time.process_time()
    step()
    if device.startswith("cuda"):
        torch.cuda.synchronize()
    return time.perf_counter() - start, time.process_time() - cpu_start


def table(
    measured: dict[tuple[str, str], Measurement], names: list[str], kinds: Sequence[str]
) -> str:
    """One row per encoder; ratios are to the first encoder with the same operators."""
    headers = ["encoder"]
    for kind in kinds:
        headers += [f"{kind} ms", "x dense", "CPU x", "peak MB", "x dense"]
    if len(kinds) == 2:
        headers.append(f"{kinds[1]}/{kinds[0]}")
    rows = []
    for name in names:
        row: list[object] = [Path(name).name]
        for kind in kinds:
            this, dense = measured[name, kind], measured[names[0], kind]
            row += [1e3 * this.seconds, this.seconds / dense.seconds]
            row.append(this.cpu_seconds / dense.cpu_seconds)
            row += _memory_cells(this.peak_bytes, dense.peak_bytes)
        if len(kinds) == 2:
            row.append(measured[name, kinds[1]].seconds / measured[name, kinds[0]].seconds)
        rows.append(row)
    return str(tabulate(rows, headers=headers, floatfmt=".2f"))


def _memory_cells(peak: int | None, dense: int | None) -> list[object]:
    if peak is None or not dense:
        return ["-", "-"]
    return [peak / 1e6, peak / dense]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command by itself."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_arguments(parser)
    run(parser.parse_args(arguments))


if __name__ == "__main__":
    main()
