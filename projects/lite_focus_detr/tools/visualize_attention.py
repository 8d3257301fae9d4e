"""Draws the points that attention samples, with their weights on each level, for some queries.

    lite-focus-detr points IMAGE --output PICTURE \
        --weights PATH [PATH ...] [--config-file NAME_OR_PATH ...] \
        [--attention encoder|decoder] [--layer -1] [--point X Y] [--opts KEY VALUE ...]

Several models are drawn below each other, for example key-aware and plain attention. The queries
are those nearest to the given points, or to the centres of the first model's best detections.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from torchvision.ops import box_convert, nms

from ..analysis.inspection import detector_name
from ..analysis.sampling import attention_name, find_attention, nearest_samples, record_calls
from ..data import read_image
from ..engine import user_errors
from ..modeling import DetectorOutputs
from ..predictor import Predictor
from ..visualization.attention import SampledModel, draw_samples
from ..visualization.style import Caption
from .command_line import (
    add_models_arguments,
    load_predictors,
    output_errors,
    picture_file,
)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command. Exits with one line on stderr if a configuration or a file is wrong."""
    args = _parser().parse_args(arguments)
    with user_errors():
        image = read_image(args.image, "RGB")
        picture = picture_file(args.output)
        height, width = image.shape[:2]
        points = _relative_points(args.point or [], width, height)
        models = [
            (predictor, find_attention(predictor.model, args.attention, args.layer))
            for predictor in load_predictors(args)
        ]
    rows: list[SampledModel] = []
    for predictor, attention in models:
        with record_calls(attention) as calls:
            outputs = predict(predictor, args.image)
        boxes = None
        if not args.point:
            boxes = _best_boxes(outputs)
            # The first model chooses the points, of the others the boxes there are shown.
            points = points if len(points) else _centers(boxes[: args.num_queries])
            boxes = boxes[torch.cdist(points, _centers(boxes)).argmin(1)]
        samples = nearest_samples(attention, calls, points, outputs.tokens.valid_ratios[0])
        layer = attention_name(predictor.model, args.attention, args.layer)
        name = f"{detector_name(predictor.model)}, {layer}"
        rows.append(SampledModel(name, samples, outputs.tokens.strides, boxes))
    caption = Caption("attention samples", Path(args.image).name)
    with output_errors("--output"):
        draw_samples(image, rows, caption).savefig(picture)
    print(picture)


@torch.inference_mode()
def predict(predictor: Predictor, path: str) -> DetectorOutputs:
    """What a detector predicts for an image file, before the selection of detections."""
    inputs = predictor.mapper({"file_name": path})
    outputs: DetectorOutputs = predictor.model.forward_outputs(
        predictor.model.preprocess_image([inputs])
    )
    return outputs


def _best_boxes(outputs: DetectorOutputs) -> Tensor:
    """Predicted boxes (N, 4) xyxy in [0, 1], best first, one of those that overlap."""
    boxes = box_convert(outputs.pred_boxes[0], "cxcywh", "xyxy")
    return boxes[nms(boxes, outputs.pred_logits[0].amax(-1), 0.5)].cpu()


def _centers(boxes: Tensor) -> Tensor:
    return (boxes[:, :2] + boxes[:, 2:]) / 2


def _relative_points(points: Sequence[Sequence[float]], width: int, height: int) -> Tensor:
    """Pixels (x, y) of an image as points (N, 2) in [0, 1]."""
    for x, y in points:
        if not (0 <= x < width and 0 <= y < height):
            raise ValueError(f"--point {x:g} {y:g} is outside of the {width}x{height} image")
    return torch.tensor(points).reshape(-1, 2) / torch.tensor([width, height])


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="lite-focus-detr points",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("image", help="image file")
    parser.add_argument("--output", required=True, help="picture to write")
    parser.add_argument("--attention", choices=("encoder", "decoder"), default="encoder")
    parser.add_argument("--layer", type=int, default=-1, help="by default the last")
    parser.add_argument(
        "--point", type=float, nargs=2, action="append", metavar=("X", "Y"), help="pixel"
    )
    parser.add_argument("--num-queries", type=int, default=3, help="where no point is given")
    add_models_arguments(parser)
    return parser


if __name__ == "__main__":
    main()
