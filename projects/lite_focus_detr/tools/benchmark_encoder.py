"""Time and memory of the encoders against the dense one, with native operators and without.

    python -m lite_focus_detr.tools.benchmark encoder [--train] [--native-only] [--rounds 3]

Without --config-file: all encoders on DINO with ResNet-50, which are the dense one, the layouts of
Lite DETR with key-aware and with plain attention, Focus-DETR that keeps 10 to 50 % of the tokens,
and Sparse DETR. Of each only the encoder runs, selection of tokens included, on random feature
levels of the size that the image gives.

Each runs once for its memory: the most that it needs beyond its weights and its input, in another
process that keeps no freed memory. Then all of them run in turn in every round, with every kind of
operators, so that a change of the machine's speed meets all of them. Times are medians over the
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
from detectron2.structures import ImageList
from tabulate import tabulate
from torch import Tensor

from .. import model_zoo
from ..modeling import DetectionTransformer
from ..modeling.encoder import Encoder
from ..modeling.heads import ProposalHead
from ..modeling.tokens import FeatureTokens
from .benchmark_measure import (
    Measurement,
    cells,
    kinds_of_operators,
    measure,
    with_operators,
)
from .peak_memory import Step

#: The dense encoder first: the others are compared with it. The host is the same for all.
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
    "sparse_dino_r50_36ep",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.add_argument(
        "--config-file",
        action="append",
        metavar="NAME",
        help="name in the model zoo, may be repeated; the first is what the others are divided by",
    )
    parser.add_argument("--train", action="store_true", help="forward and backward pass")
    add_size_and_device(parser)


def add_size_and_device(parser: argparse.ArgumentParser) -> None:
    """Options of every benchmark of parts of a detector."""
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


def run(args: argparse.Namespace) -> None:
    """Measure and print the table."""
    names = args.config_file or CONFIGS
    kinds = kinds_of_operators(args.device, args.native_only)
    steps = partial(make_steps, names, args.image_size, args.device, args.train)
    measured = measure(partial(with_operators, steps, kinds), args.rounds, args.device)
    print(title(f"Encoder, {'training step' if args.train else 'inference'}", args))
    print(table(measured, list(names), kinds))


def title(what: str, args: argparse.Namespace) -> str:
    """What was measured and how."""
    height, width = args.image_size
    return (
        f"{what}, one image of {height}x{width}, {args.device}, {torch.get_num_threads()} threads, "
        f"median of {args.rounds} interleaved rounds"
    )


def make_steps(
    names: Sequence[str], image_size: Sequence[int], device: str, train: bool
) -> dict[str, Step]:
    """Functions that run the encoder of a configuration once, by its name.

    Args:
        names: configurations in the model zoo.
        image_size: (height, width) of the image that the feature levels belong to.
        device: where to run.
        train: with gradients; see :func:`encoder_step`.
    """
    steps = {}
    for name in names:
        model = model_zoo.get(name, device=device)
        assert isinstance(model, DetectionTransformer)
        tokens = make_tokens(model, image_size)
        steps[name] = encoder_step(model.encoder, model.proposal_head, tokens, train)
    return steps


def encoder_step(
    encoder: Encoder, head: ProposalHead | None, tokens: FeatureTokens, train: bool
) -> Step:
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
        results = [output.memory, *chain.from_iterable(output.predictions), *output.aux.values()]
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
    for level in range(len(model.tokens.input_proj)):
        shape = [-(-size // 2 ** (level + 3)) for size in (height, width)]
        levels.append(torch.randn(1, model.tokens.level_embed.shape[1], *shape, generator=random))
    image = torch.empty(1, 3, height, width, device="meta")
    return model.tokens([x.to(model.device) for x in levels], ImageList(image, [(height, width)]))


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
            row += cells(measured[name, kind], measured[names[0], kind])
        if len(kinds) == 2:
            row.append(measured[name, kinds[1]].seconds / measured[name, kinds[0]].seconds)
        rows.append(row)
    return str(tabulate(rows, headers=headers, floatfmt=".2f"))
