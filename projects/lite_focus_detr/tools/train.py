"""Trains a detector, on a folder of one's own images or on the data of a configuration.

    lite-focus-detr train --data FOLDER [--config-file NAME_OR_PATH] [--output FOLDER]
        [--weights PATH] [--resume] [--num-gpus N] [--verbose] [--opts KEY VALUE ...]

The folder is in COCO, YOLO or Pascal VOC format, which is recognised; data sets, classes and a
validation split follow from it. With ``--weights`` of this project a detector is trained further,
whose classes keep what is known of their names. ``train_net.py`` has all options of detectron2.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence

from .. import model_zoo
from ..config import ConfigFile, SavedConfig
from ..engine import describe_checkpoint, find_weights, run, user_errors
from ..screen import VERBOSE
from .command_line import add_trust_argument
from .run_arguments import (
    add_run_arguments,
    data_options,
    detectron2_arguments,
    run_once,
    run_options,
)

#: For data of one's own: small enough for a machine without a GPU.
DEFAULT_CONFIG = "dino_small"
DEFAULT_OUTPUT = "./output"


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command. Exits with one line on stderr if something of the user's is wrong."""
    args = _parser().parse_args(arguments)
    if args.verbose:
        os.environ[VERBOSE] = "1"
    with user_errors():
        config_file, options = _start(args), run_options(args, args.output)
        if isinstance(config_file, SavedConfig):  # not in the folder of the training that saved it
            options = ["OUTPUT_DIR", DEFAULT_OUTPUT, *options]
        if args.data is not None:
            options = data_options(args.data, config_file, options)
        changes = {"resume": args.resume, "num_gpus": args.num_gpus}
        run_args = detectron2_arguments(config_file, options, **changes)
    run(run_once, run_args)


def _start(args: argparse.Namespace) -> ConfigFile:
    """The configuration to start from: what is named, that of the weights, or the default."""
    if args.config_file is not None:
        return model_zoo.find_config_file(args.config_file)
    if args.data is None:
        raise ValueError("give --data FOLDER, or --config-file with data sets, or both")
    if args.weights:
        description = describe_checkpoint(find_weights(args.weights))
        if description.config is not None:
            return description.saved_config(trust_imports=args.trust_imports)
    return model_zoo.find_config_file(DEFAULT_CONFIG)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="lite-focus-detr train",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--weights", metavar="PATH", help="to start from; by default MODEL.WEIGHTS")
    parser.add_argument("--output", metavar="FOLDER", help="by default OUTPUT_DIR, ./output")
    parser.add_argument("--resume", action="store_true", help="go on with the training in --output")
    add_trust_argument(parser)
    add_run_arguments(parser, config_help=f"by default that of the weights, or {DEFAULT_CONFIG}")
    return parser


if __name__ == "__main__":
    main()
