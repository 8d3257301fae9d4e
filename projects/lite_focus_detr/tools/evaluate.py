"""Evaluates a trained detector: AP on the test sets of its configuration or on a data folder.

lite-focus-detr eval --weights PATH [--data FOLDER [--split NAME]] [--onnx FILE]
    [--config-file NAME_OR_PATH] [--output FOLDER] [--num-gpus N] [--verbose] [--opts KEY VALUE ...]

With --onnx a file of `lite-focus-detr export` detects, in ONNX Runtime; classes and preprocessing
are those of the weights that it was made of.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

from ..config.trained_weights import trained_names
from ..engine import describe_checkpoint, find_weights, run, user_errors
from ..screen import VERBOSE
from .command_line import add_optimize_argument, add_trust_argument, choose_config
from .run_arguments import (
    add_run_arguments,
    data_options,
    detectron2_arguments,
    run_once,
    run_options,
)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command. Exits with one line on stderr if something of the user's is wrong."""
    args = _parser().parse_args(arguments)
    if args.verbose:
        os.environ[VERBOSE] = "1"
    with user_errors():
        options = run_options(args, args.output or _default_output(args.weights))
        config_file = choose_config(args.config_file, options, trust_imports=args.trust_imports)
        if args.data is not None:
            names = describe_checkpoint(find_weights(args.weights)).class_names
            options = data_options(
                args.data, config_file, options, test=args.split, class_names=names
            )
        changes = {"eval_only": True, "num_gpus": args.num_gpus, "onnx": args.onnx}
        run_args = detectron2_arguments(config_file, options, **changes)
    run(run_once, run_args)


def _default_output(weights: str) -> str:
    """Beside a local file; what is downloaded or installed has no folder of the user's."""
    is_local = "://" not in weights and weights not in trained_names()
    folder = Path(weights).parent if is_local else "output"
    return str(Path(folder, "evaluation"))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="lite-focus-detr eval",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--weights", required=True, metavar="PATH", help="of the detector")
    parser.add_argument("--onnx", metavar="FILE", help="evaluate this exported file instead")
    parser.add_argument(
        "--split", choices=("train", "val", "test"), default="val", help="of --data"
    )
    parser.add_argument(
        "--output",
        metavar="FOLDER",
        help="for the predictions; by default evaluation/ beside local weights, or in output/",
    )
    add_trust_argument(parser)
    add_optimize_argument(parser)
    add_run_arguments(parser, config_help="by default what the weights hold")
    return parser


if __name__ == "__main__":
    main()
