"""An encoder layer and a whole detector, with native operators and with the reference.

    python -m lite_focus_detr.tools.benchmark model [--config-file NAME_OR_PATH] \
        [--image-size 480 800] [--opts KEY VALUE ...]

The layer is the dense one of the configuration's sizes and attention, on random feature maps of
the size that the image gives. The detector has random weights and sees one synthetic image with a
few boxes. A training step is the forward and the backward pass, for the detector with its losses.

Each runs once for its memory: the most that it needs beyond weights and input, in another process
that keeps no freed memory. Then all of them run in turn in every round, so that noise on the
machine affects all of them alike. Times are medians over the rounds; the ratios say how many times
the reference takes as much time, processor time and memory as the native operators.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.structures import Boxes, Instances
from tabulate import tabulate

from ...engine import user_errors
from ...model_zoo import get_config
from ...modeling import DetectionTransformer
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

#: Boxes of the image: about as many as COCO's images have on average.
NUM_BOXES = 7


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
    """Functions that run the layer and the detector of a configuration once, by what they are.

    Args:
        cfg: of the detector.
        image_size: (height, width) in pixels.
        device: where to run.
    """
    model = build_detector(cfg, device)
    layer = SingleLayer(EncoderLayer(cfg)).to(model.device)
    tokens = make_tokens(model, image_size)
    inputs = make_inputs(image_size, model.device)
    return {
        "encoder layer, inference": encoder_workload(layer, None, tokens, train=False),
        "encoder layer, training step": encoder_workload(layer, None, tokens, train=True),
        "detector, inference": detector_workload(model, inputs, train=False),
        "detector, training step": detector_workload(model, inputs, train=True),
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


def make_inputs(image_size: Sequence[int], device: torch.device) -> list[dict[str, Any]]:
    """One image of noise with boxes along its diagonal, as a detector takes it."""
    height, width = image_size
    random = torch.Generator().manual_seed(0)
    image = torch.randint(256, (3, height, width), dtype=torch.uint8, generator=random)
    centers = torch.linspace(0.2, 0.8, NUM_BOXES)[:, None]
    corners = torch.cat([centers + offset for offset in (-0.1, -0.1, 0.1, 0.1)], 1)
    instances = Instances((height, width))
    instances.gt_boxes = Boxes(corners * torch.tensor([width, height, width, height]))
    instances.gt_classes = torch.zeros(NUM_BOXES, dtype=torch.int64)
    return [{"image": image.to(device), "instances": instances.to(device)}]


def detector_workload(
    model: DetectionTransformer, inputs: Sequence[Mapping[str, Any]], train: bool
) -> Workload:
    """A function that runs a detector once; ``train`` with gradients, gone afterwards."""

    def infer() -> object:
        model.eval()
        with torch.inference_mode():
            return model(inputs)

    def learn() -> None:
        model.train()
        losses = model(inputs)
        assert isinstance(losses, dict)
        torch.autograd.backward(list(losses.values()))
        model.zero_grad()

    return learn if train else infer


def table(measured: Mapping[tuple[str, str], Measurement], kinds: Sequence[str]) -> str:
    """One row per workload and kind of operators; ratios are to the first kind."""
    headers = ["", "operators", "ms", "ratio", "CPU ratio", "peak MB", "ratio"]
    rows = [
        [name, kind, *ratio_cells(measurement, measured[name, kinds[0]])]
        for (name, kind), measurement in measured.items()
    ]
    return str(tabulate(rows, headers=headers, floatfmt=".2f"))
