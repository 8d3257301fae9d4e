"""An encoder layer with native operators and with the reference.

    lite-focus-detr benchmark layer [--config-file NAME_OR_PATH] \
        [--image-size 480 800] [--opts KEY VALUE ...]

The layer is the dense one of the configuration's sizes and attention, on random feature maps of
the size that the image gives. A training step is the forward and the backward pass.

Each runs once for its memory: the most that it needs beyond weights and input, in another process
that keeps no freed memory. Then all of them run in turn in every round, so that noise on the
machine affects all of them alike. Times are medians over the rounds; the ratios say how many times
the reference takes as much time, processor time and memory as the native operators.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from functools import partial

from detectron2.config import CfgNode
from tabulate import tabulate

from ...engine import user_errors
from ...model_zoo import get_config
from ...modeling.encoder import Encoder, EncoderLayer, EncoderOutput, TokenQueries
from ...modeling.proposals import TokenHead
from ...modeling.structures import FeatureTokens
from ..command_line import BASELINE
from .encoders import (
    add_detector_arguments,
    build_detector,
    encoder_workload,
    heading,
    make_tokens,
)
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
        default=BASELINE,
        metavar="NAME_OR_PATH",
        help="default %(default)s",
    )
    add_detector_arguments(parser)
    parser.set_defaults(rounds=3)


def run(args: argparse.Namespace) -> None:
    """Measure and print the table."""
    with user_errors():
        cfg = get_config(args.config_file, args.opts)
    kinds = kinds_of_operators(args.device, args.native_only)
    workloads = partial(make_workloads, cfg, args.image_size, args.device)
    measured = measure(partial(with_operators, workloads, kinds), args.rounds, args.device)
    print(heading(args.config_file, args))
    print(table(measured, kinds))


def make_workloads(cfg: CfgNode, image_size: Sequence[int], device: str) -> dict[str, Workload]:
    """Functions that run the layer of a configuration once, by what they do.

    Args:
        cfg: of a detector.
        image_size: (height, width) in pixels.
        device: where to run.
    """
    model = build_detector(cfg, device)
    layer = SingleLayer(EncoderLayer(cfg)).to(model.device)
    tokens = make_tokens(model, image_size)
    return {
        "inference": encoder_workload(layer, None, tokens, train=False),
        "training step": encoder_workload(layer, None, tokens, train=True),
    }


class SingleLayer(Encoder):
    """An encoder of one layer, which updates all tokens."""

    def __init__(self, layer: EncoderLayer) -> None:
        """Take the layer."""
        super().__init__()
        self.layer = layer

    def forward(self, tokens: FeatureTokens, proposal_head: TokenHead | None) -> EncoderOutput:
        """See :class:`Encoder`."""
        return EncoderOutput(self.layer(TokenQueries.all_of(tokens), tokens.features, tokens))


def table(measured: Mapping[tuple[str, str], Measurement], kinds: Sequence[str]) -> str:
    """One row per workload and kind of operators; ratios are to the first kind."""
    headers = ["", "operators", "ms", "ratio", "CPU ratio", "peak MB", "ratio"]
    rows = [
        [name, kind, *ratio_cells(measurement, measured[name, kinds[0]])]
        for (name, kind), measurement in measured.items()
    ]
    return str(tabulate(rows, headers=headers, floatfmt=".2f"))
