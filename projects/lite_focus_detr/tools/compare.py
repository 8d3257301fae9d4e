"""Compares what detectors do with one image, in one page of HTML that needs no server.

    lite-focus-detr compare --image IMAGE --weights PATH [PATH ...] \
        --output page.html [--confidence-threshold 0.3] [--rounds 3] \
        [--config-file NAME_OR_PATH ...] [--opts KEY VALUE ...]

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
from .command_line import (
    add_models_arguments,
    add_threshold_argument,
    choose_threshold,
    load_predictors,
    output_errors,
    output_file,
)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command. Exits with one line on stderr if a file or an option is wrong."""
    args = _parser().parse_args(arguments)
    with user_errors():
        read_image(args.image, "RGB")
        output = output_file(args.output)
        options = ComparisonOptions.from_arguments(args)
    page = options.compare(args.image)
    with output_errors("--output"):
        output.write_text(page, encoding="utf-8")
    print(output)


@dataclass(frozen=True)
class ComparisonOptions:
    """What is compared, and how.

    Args:
        predictors: the detectors, at least one.
        threshold: least score of a detection that is shown at first, in [0, 1].
        rounds: timed runs of each detector, at least 1.
    """

    predictors: Sequence[Predictor]
    threshold: float
    rounds: int

    @classmethod
    def from_arguments(cls, args: argparse.Namespace) -> ComparisonOptions:
        """What the options of :func:`add_comparison_arguments` say.

        Raises:
            OSError, ValueError: a file or an option is wrong.
        """
        if args.rounds < 1:
            raise ValueError(f"--rounds {args.rounds}: each detector runs at least once")
        choose_threshold(args.confidence_threshold, ())  # Before anything takes time.
        predictors = load_predictors(args)
        return cls(predictors, choose_threshold(args.confidence_threshold, predictors), args.rounds)

    def compare(self, path: str) -> str:
        """Run the detectors on an image file, one after the other, and make the page of it.

        Raises:
            RuntimeError: the image cannot be read.
        """
        image = ComparedImage(read_image(path, "RGB"), Path(path).name)
        models = []
        for predictor in self.predictors:
            inputs = predictor.mapper({"file_name": path})
            seen = inspect_image(predictor.model, inputs, rounds=self.rounds)
            file, names = predictor.description.file, predictor.class_names or ()
            models.append(ComparedModel(seen, file, names))
        return comparison_page(image, models, threshold=self.threshold, rounds=self.rounds)


def add_comparison_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options that name detectors, and what is shown of them."""
    add_threshold_argument(parser)
    parser.add_argument("--rounds", type=int, default=3, help="timed runs of each detector")
    add_models_arguments(parser)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="lite-focus-detr compare",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--image", required=True, metavar="PATH", help="image file")
    parser.add_argument("--output", required=True, metavar="page.html", help="page to write")
    add_comparison_arguments(parser)
    return parser


if __name__ == "__main__":
    main()
