"""What ``train`` and ``eval`` share: their options, and how these become those of detectron2."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from detectron2.engine import default_argument_parser

from .. import model_zoo
from ..config import ConfigFile, load_config
from ..data.folders import folder_options, read_data_folder, with_class_order
from ..engine import prepare_run, train_or_evaluate, user_errors
from .command_line import add_opts_argument, options_with_weights


def add_run_arguments(parser: argparse.ArgumentParser, *, config_help: str) -> None:
    """Add the options of a training or an evaluation.

    Args:
        parser: of the command.
        config_help: what happens without ``--config-file``.
    """
    parser.add_argument(
        "--data", metavar="FOLDER", help="images and labels in COCO, YOLO or Pascal VOC format"
    )
    parser.add_argument(
        "--config-file",
        metavar="NAME_OR_PATH",
        help=f"configuration: a file, or its name in the model zoo; {config_help}",
    )
    parser.add_argument("--num-gpus", type=int, default=1, help="or processes without a GPU")
    parser.add_argument("--verbose", action="store_true", help="show all lines of detectron2")
    add_opts_argument(parser)


def run_options(args: argparse.Namespace, output: str | None) -> list[str]:
    """``KEY VALUE ...`` of ``--opts``, ``--weights`` and the output folder, if there is one."""
    return [*options_with_weights(args), *(["OUTPUT_DIR", output] if output else [])]


def data_options(
    folder: str,
    config_file: ConfigFile,
    options: list[str],
    *,
    test: str = "val",
    class_names: Sequence[str] | None = None,
) -> list[str]:
    """``KEY VALUE ...`` of a data folder, which ``options`` come behind and may change.

    The best weights are kept, of the evaluation with the greatest AP.

    Args:
        folder: in a format that is recognised; what is converted goes below ``OUTPUT_DIR``.
        config_file: configuration that says where this is.
        options: its changes.
        test: split to evaluate on.
        class_names: of a trained detector, whose order they have; None takes those of the folder.

    Raises:
        ValueError: something in the folder or the configuration is wrong.
    """
    cfg = load_config(config_file, options)
    cache = Path(cfg.OUTPUT_DIR, "datasets")
    found = read_data_folder(folder, cache)
    if class_names is not None:
        found = with_class_order(found, class_names, cache)
    best = ("SOLVER.BEST_METRIC", "bbox/AP")
    return [*folder_options(found, folder, test=test), *best, *options]


def detectron2_arguments(
    config_file: ConfigFile, options: list[str], **changes: Any
) -> argparse.Namespace:
    """Arguments of detectron2's ``default_argument_parser``.

    Args:
        config_file: path, name in the model zoo, or what a checkpoint holds.
        options: ``KEY VALUE ...``.
        changes: of the other arguments, such as ``resume=True``.
    """
    args = default_argument_parser().parse_args([])
    args.config_file, args.opts = model_zoo.find_config_file(config_file), options
    vars(args).update(changes)
    return args


def run_once(args: argparse.Namespace) -> dict[str, Any] | None:
    """Train or evaluate in this process; returns the metrics.

    Args:
        args: of :func:`detectron2_arguments`.
    """
    with user_errors():
        cfg = load_config(args.config_file, args.opts)
        prepare_run(cfg, args)
    return train_or_evaluate(cfg, args)
