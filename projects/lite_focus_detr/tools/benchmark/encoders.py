"""Time and memory of the encoders against the dense one, with native operators and without.

    lite-focus-detr benchmark encoder [--train] [--native-only] [--rounds 3] \
        [--config-file NAME_OR_PATH ...] [--opts KEY VALUE ...]

Without --config-file: all encoders on DINO with ResNet-50, the dense one first. Of each only the
encoder runs, selection of tokens included, on random feature maps of the size that the image gives.

Each runs once for its memory: the most that it needs beyond its weights and its input, in another
process that keeps no freed memory. Then all of them run in turn in every round, with every kind of
operators, so that noise on the machine affects all of them alike. Times are medians over the
rounds; "x dense" divides by the first encoder with the same operators, "CPU x" does so for the
processor time.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import chain
from pathlib import Path

import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from detectron2.structures import ImageList
from tabulate import tabulate
from torch import Tensor

from ...engine import user_errors
from ...model_zoo import get_config
from ...modeling import DetectionTransformer
from ...modeling.encoder import Encoder
from ...modeling.proposals import TokenHead
from ...modeling.structures import FeatureTokens
from ..command_line import add_opts_argument, encoder_configs
from .measure import (
    Measurement,
    kinds_of_operators,
    measure,
    ratio_cells,
    with_operators,
)
from .peak_memory import Workload


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    parser.add_argument(
        "--config-file",
        action="append",
        metavar="NAME_OR_PATH",
        help="may be repeated; the first is what the others are divided by",
    )
    parser.add_argument("--train", action="store_true", help="forward and backward pass")
    add_detector_arguments(parser)


def add_detector_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of every benchmark that builds detectors."""
    parser.add_argument(
        "--image-size",
        type=int,
        nargs=2,
        default=(800, 1333),
        metavar=("HEIGHT", "WIDTH"),
        help="pixels; default 800 1333",
    )
    parser.add_argument("--device", default="cpu", help="default cpu")
    parser.add_argument("--native-only", action="store_true", help="leave the reference out")
    add_opts_argument(parser)


def run(args: argparse.Namespace) -> None:
    """Measure and print the table."""
    names = args.config_file or encoder_configs()
    with user_errors():
        configs = {name: get_config(name, args.opts) for name in names}
    kinds = kinds_of_operators(args.device, args.native_only)
    workloads = partial(make_workloads, configs, args.image_size, args.device, args.train)
    measured = measure(partial(with_operators, workloads, kinds), args.rounds, args.device)
    print(heading(f"Encoder, {'training step' if args.train else 'inference'}", args))
    print(table(measured, names, kinds))


def heading(what: str, args: argparse.Namespace) -> str:
    """What was measured and how."""
    height, width = args.image_size
    return (
        f"{what}, one image of {height}x{width}, {args.device}, {torch.get_num_threads()} threads, "
        f"median of {args.rounds} interleaved rounds"
    )


def make_workloads(
    configs: Mapping[str, CfgNode], image_size: Sequence[int], device: str, train: bool
) -> dict[str, Workload]:
    """Functions that run the encoder of a configuration once, by its name.

    Args:
        configs: by the names to show.
        image_size: (height, width) of the image that the feature maps belong to.
        device: where to run.
        train: with gradients; see :func:`encoder_workload`.
    """
    workloads = {}
    for name, cfg in configs.items():
        model = build_detector(cfg, device)
        tokens = make_tokens(model, image_size)
        workloads[name] = encoder_workload(model.encoder, model.proposal_head, tokens, train)
    return workloads


def build_detector(cfg: CfgNode, device: str) -> DetectionTransformer:
    """A detector with random weights on a device."""
    cfg = cfg.clone()
    cfg.MODEL.DEVICE = device
    model: DetectionTransformer = build_model(cfg)
    return model


def encoder_workload(
    encoder: Encoder, head: TokenHead | None, tokens: FeatureTokens, train: bool
) -> Workload:
    """A function that runs an encoder once.

    Args:
        encoder: the encoder.
        head: scores tokens, for encoders that ask for it.
        tokens: its input.
        train: with gradients of its weights and its input from all that losses are made of; they
            are gone afterwards, so that every run allocates them.
    """

    def infer() -> Tensor:
        encoder.eval()
        with torch.inference_mode():
            return encoder(tokens, head).memory

    def learn() -> None:
        encoder.train()
        features = tokens.features.detach().requires_grad_()
        output = encoder(tokens._replace(features=features), head)
        traced = () if output.trace is None else output.trace
        results = [output.memory, *chain.from_iterable(output.predictions), *traced]
        trained = [x for x in results if isinstance(x, Tensor) and x.requires_grad]
        torch.autograd.backward([x.sum() for x in trained])
        encoder.zero_grad()
        if head is not None:
            head.zero_grad()

    return learn if train else infer


@torch.no_grad()
def make_tokens(model: DetectionTransformer, image_size: Sequence[int]) -> FeatureTokens:
    """Random feature levels of one image, each half the size of the one before, rounded up."""
    height, width = image_size
    random = torch.Generator().manual_seed(0)
    levels = []
    for level, embed in enumerate(model.neck.level_embed):
        shape = [-(-size // 2 ** (level + 3)) for size in (height, width)]
        levels.append(torch.randn(1, len(embed), *shape, generator=random).to(model.device))
    image = torch.empty(1, 3, height, width, device="meta")
    return model.flatten_levels(levels, ImageList(image, [(height, width)]))


def table(
    measured: Mapping[tuple[str, str], Measurement], names: Sequence[str], kinds: Sequence[str]
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
            row += ratio_cells(measured[name, kind], measured[names[0], kind])
        if len(kinds) == 2:
            row.append(measured[name, kinds[1]].seconds / measured[name, kinds[0]].seconds)
        rows.append(row)
    return str(tabulate(rows, headers=headers, floatfmt=".2f"))
