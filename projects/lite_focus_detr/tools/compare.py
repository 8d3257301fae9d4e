"""Compares what detectors do with one image, in one page of HTML that needs no server.

    python -m lite_focus_detr.tools.compare --image IMAGE --weights PATH [PATH ...] \
        --output page.html [--config-file NAME_OR_PATH ...] [--confidence-threshold 0.3] \
        [--rounds 3] [--opts KEY VALUE ...]

The page shows the image once for each detector, with its boxes, the tokens that each encoder layer
updates, where attention samples around a pixel that is clicked, and how long backbone, encoder and
decoder take: the median of some runs, which are of one detector at a time. It holds everything that
it shows and asks for nothing from a network, so that it can be sent to others.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..analysis.inspection import inspect_image
from ..data import read_image
from ..engine import user_errors
from ..predictor import Predictor
from ..visualization.comparison import ComparedImage, ComparedModel, comparison_page
from .command_line import add_models_arguments, load_predictors, output_errors


@dataclass(frozen=True)
class Detector:
    """A detector to compare.

    Args:
        predictor: of the detector.
        file: with its weights.
        class_names: of its class rows; empty: they have numbers.
    """

    predictor: Predictor
    file: str
    class_names: tuple[str, ...] = ()


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command. Exits with one line on stderr if a file or an option is wrong."""
    args = _parser().parse_args(arguments)
    with user_errors():
        read_image(args.image, "RGB")
        detectors = load_detectors(args)
    page = compare_image(
        detectors, args.image, threshold=args.confidence_threshold, rounds=args.rounds
    )
    with output_errors("--output"):
        output = Path(args.output)
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(page, encoding="utf-8")
    print(output)


def load_detectors(args: argparse.Namespace) -> list[Detector]:
    """The detectors that the options of :func:`add_weights_arguments` name.

    Raises:
        OSError, ValueError: a file is missing or wrong.
    """
    if args.rounds < 1:
        raise ValueError(f"--rounds {args.rounds}: each detector runs at least once")
    if not 0 <= args.confidence_threshold <= 1:
        raise ValueError(f"--confidence-threshold {args.confidence_threshold:g} is not in [0, 1]")
    return [
        Detector(predictor, weights, predictor.class_names or ())
        for predictor, weights in zip(load_predictors(args), args.weights, strict=True)
    ]


def compare_image(
    detectors: Sequence[Detector], path: str, *, threshold: float, rounds: int
) -> str:
    """Run detectors on an image file, one after the other, and make the page of it.

    Args:
        detectors: at least one.
        path: of the image.
        threshold: least score of a detection that is shown at first, in [0, 1].
        rounds: timed runs of each detector, at least 1.

    Raises:
        RuntimeError: the image cannot be read.
    """
    image = ComparedImage(read_image(path, "RGB"), Path(path).name)
    models = []
    for detector in detectors:
        inputs = detector.predictor.mapper({"file_name": path})
        seen = inspect_image(detector.predictor.model, inputs, rounds=rounds)
        models.append(ComparedModel(seen, detector.file, detector.class_names))
    return comparison_page(image, models, threshold=threshold, rounds=rounds)


def add_weights_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options that name several detectors, and what is shown of them."""
    parser.add_argument("--confidence-threshold", type=float, default=0.3, metavar="SCORE")
    parser.add_argument("--rounds", type=int, default=3, help="timed runs of each detector")
    add_models_arguments(parser)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m lite_focus_detr.tools.compare",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--image", required=True, metavar="PATH", help="image file")
    parser.add_argument("--output", required=True, metavar="page.html", help="page to write")
    add_weights_arguments(parser)
    return parser


if __name__ == "__main__":
    main()
