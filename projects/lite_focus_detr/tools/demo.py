"""Detects objects in images of one's own; writes pictures and ``predictions.json``.

    python -m lite_focus_detr.tools.demo --config-file NAME_OR_PATH --weights PATH \
        --input IMAGE_OR_FOLDER ... --output FOLDER [--latency 300ms] [--opts KEY VALUE ...]

``--latency`` is for encoders that select tokens: their budget is the largest with which detection
in the first image takes at most so long on this machine.
"""

from __future__ import annotations

import argparse
import json
import logging
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from detectron2.evaluation.coco_evaluation import instances_to_coco_json
from detectron2.structures import Instances
from detectron2.utils.logger import setup_logger
from PIL import Image

from ..analysis.latency import fit_budget
from ..data import read_image
from ..engine import user_errors
from ..predictor import Predictor, load_inference_config, load_metadata
from ..visualization.detections import draw_predictions
from .command_line import add_config_arguments, options_with_weights, output_errors

# Under ``python -m`` the name of this module is not its own.
logger = logging.getLogger("lite_focus_detr.tools.demo")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code, 1 if an image could not be read."""
    args = _parser().parse_args(arguments)
    setup_logger(name="lite_focus_detr")
    with user_errors():
        cfg = load_inference_config(args.config_file, options_with_weights(args))
        metadata = load_metadata(cfg)
        paths = find_images(args.input)
        predictor = Predictor(cfg)
        if args.latency is not None:
            keep_within(predictor, str(paths[0]), args.latency)
    with output_errors("--output"):
        unreadable = detect(
            predictor, paths, Path(args.output), metadata, args.confidence_threshold
        )
    return int(unreadable > 0)


def detect(
    predictor: Predictor, paths: Sequence[Path], output: Path, metadata: Any, threshold: float
) -> int:
    """Write a picture per image and ``predictions.json`` to the folder ``output``.

    Args:
        predictor: the detector.
        paths: image files.
        output: created when needed.
        metadata: names of the classes.
        threshold: least score of a detection, in [0, 1].

    Returns:
        the number of images that could not be read; they are logged.
    """
    output.mkdir(parents=True, exist_ok=True)
    predictions: list[dict[str, Any]] = []
    unreadable = 0
    for number, path in enumerate(paths):
        try:
            image = read_image(str(path), "RGB")
        except RuntimeError as error:
            logger.error("%s", error)
            unreadable += 1
            continue
        instances = predictor(str(path))
        instances = instances[instances.scores >= threshold]
        predictions += _as_json(instances, path, metadata)
        # Numbered, because images from different folders may have the same name.
        picture = draw_predictions(image, instances, metadata)
        Image.fromarray(picture).save(output / f"{number:04d}_{path.stem}.png")
        logger.info("%s: %d objects", path, len(instances))
    (output / "predictions.json").write_text(json.dumps(predictions, indent=1))
    logger.info("Pictures and predictions.json are in %s", output)
    return unreadable


def keep_within(predictor: Predictor, path: str, limit: float) -> None:
    """Choose the budget with which detection in an image takes at most ``limit`` seconds.

    Raises:
        ValueError: the encoder updates all tokens, or the image cannot be read.
    """
    try:
        measured = fit_budget(predictor.model, lambda: predictor(path), limit)
    except RuntimeError as error:
        raise ValueError(f"--latency: {error}") from error
    for keep_ratio, seconds in measured.items():
        logger.info("Keep ratio %g takes %.0f ms", keep_ratio, 1e3 * seconds)
    keep_ratio, seconds = list(measured.items())[-1]
    if seconds > limit:
        logger.warning(
            "No keep ratio takes at most %.0f ms: going on with the smallest, %g",
            1e3 * limit,
            keep_ratio,
        )


def parse_latency(text: str) -> float:
    """Seconds of ``300ms`` or ``0.3s``.

    Raises:
        argparse.ArgumentTypeError: it is neither.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?|\.\d+)(ms|s)", text.strip())
    if match is None or float(match[1]) <= 0:
        raise argparse.ArgumentTypeError(f"{text!r} is no time such as 300ms or 0.3s")
    return float(match[1]) / (1e3 if match[2] == "ms" else 1)


def find_images(inputs: Sequence[str]) -> list[Path]:
    """Image files among the given files and, sorted, in the given folders.

    Raises:
        ValueError: a path does not exist, or there is no image.
    """
    suffixes = set(Image.registered_extensions())
    paths: list[Path] = []
    for path in map(Path, inputs):
        if path.is_dir():
            paths += sorted(file for file in path.iterdir() if file.suffix.lower() in suffixes)
        elif path.is_file():
            paths.append(path)
        else:
            raise ValueError(f"input {path} does not exist")
    if not paths:
        raise ValueError(f"no images in {', '.join(inputs)}")
    return paths


def _as_json(instances: Instances, path: Path, metadata: Any) -> list[dict[str, Any]]:
    results: list[dict[str, Any]] = instances_to_coco_json(instances, str(path))
    names = metadata.get("thing_classes")
    for result in results:
        result["file_name"] = result.pop("image_id")
        if names is not None:
            result["category"] = names[result["category_id"]]
    return results


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m lite_focus_detr.tools.demo", description=__doc__
    )
    parser.add_argument("--input", nargs="+", required=True, help="images or folders of images")
    parser.add_argument("--output", required=True, help="folder for pictures and predictions.json")
    parser.add_argument("--confidence-threshold", type=float, default=0.5)
    parser.add_argument(
        "--latency", type=parse_latency, metavar="300ms", help="choose the budget by the time"
    )
    add_config_arguments(parser)
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
