"""Writes pictures of a data set: ground truth on the left, predictions on the right.

    lite-focus-detr visualize --weights PATH [--config-file NAME_OR_PATH] \
        --output FOLDER [--dataset NAME] [--num-images 16] [--confidence-threshold 0.3] [--top 20] \
        [--opts KEY VALUE ...]
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detectron2.data import MetadataCatalog
from detectron2.utils.logger import setup_logger
from PIL import Image

from ..analysis.inspection import detector_name
from ..data import read_image
from ..engine import user_errors
from ..predictor import Predictor
from ..visualization.detections import (
    describe_detections,
    draw_ground_truth,
    draw_predictions,
    keep_best,
    side_by_side,
)
from ..visualization.style import Caption, Picture
from .command_line import (
    add_config_arguments,
    add_threshold_argument,
    choose_threshold,
    inference_config,
    load_records,
    output_errors,
)

# Under ``python -m`` the name of this module is not its own.
logger = logging.getLogger("lite_focus_detr.tools.visualize")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command. Exits with one line on stderr if the configuration or a file is wrong."""
    args = _parser().parse_args(arguments)
    setup_logger(name="lite_focus_detr")
    with user_errors():
        cfg = inference_config(args)
        name, records = load_records(cfg, args.dataset, args.num_images)
        predictor = Predictor(cfg)
        options = DrawingOptions(
            model=detector_name(predictor.model),
            threshold=choose_threshold(args.confidence_threshold, [predictor]),
            top=args.top,
        )
    with output_errors("--output"):
        draw(predictor, records, Path(args.output), name, options)


@dataclass(frozen=True)
class DrawingOptions:
    """What is drawn of the predictions.

    Args:
        model: name of the detector, for the captions.
        threshold: least score of a prediction, in [0, 1].
        top: at most so many predictions of an image, the best; None: all.
    """

    model: str
    threshold: float
    top: int | None = None


def draw(
    predictor: Predictor,
    records: Sequence[dict[str, Any]],
    output: Path,
    dataset: str,
    options: DrawingOptions,
) -> None:
    """Write one picture per record of a data set to the folder ``output``.

    Args:
        predictor: the detector.
        records: in detectron2's format.
        output: created when needed.
        dataset: name of the data set, for the names of the classes.
        options: which predictions.
    """
    metadata = MetadataCatalog.get(dataset)
    output.mkdir(parents=True, exist_ok=True)
    for number, record in enumerate(records):
        # Numbered, because images from different folders may have the same name.
        path = output / f"{number:04d}_{Path(record['file_name']).stem}.png"
        Image.fromarray(_picture(predictor, record, metadata, options)).save(path)
        logger.info("%s", path)
    logger.info("%d pictures of %s are in %s", len(records), dataset, output)


def _picture(
    predictor: Predictor, record: dict[str, Any], metadata: Any, options: DrawingOptions
) -> Picture:
    path = record["file_name"]
    image, name, count = read_image(path, "RGB"), Path(path).name, len(record["annotations"])
    truth = Caption("ground truth", f"{name} · {count} object{'s' * (count != 1)}")
    instances = predictor(path)
    found = describe_detections(instances, options.threshold)
    prediction = Caption("prediction", f"{options.model} · {name} · {found}")
    instances = keep_best(instances, options.threshold, options.top)
    return side_by_side(
        draw_ground_truth(image, record, metadata, truth),
        draw_predictions(image, instances, metadata, prediction),
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="lite-focus-detr visualize", description=__doc__)
    parser.add_argument("--output", required=True, help="folder for the pictures")
    parser.add_argument("--dataset", help="by default the first of DATASETS.TEST")
    parser.add_argument("--num-images", type=int, default=16)
    add_threshold_argument(parser)
    parser.add_argument("--top", type=int, metavar="COUNT", help="at most so many predictions")
    add_config_arguments(parser)
    return parser


if __name__ == "__main__":
    main()
