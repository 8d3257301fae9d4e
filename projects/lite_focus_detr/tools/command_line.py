"""What the commands share: their options, and what these name."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog
from matplotlib.backend_bases import FigureCanvasBase

from .. import model_zoo
from ..data.validation import check_datasets
from ..engine import user_errors

#: What the other encoders are compared with: the dense one in the same detector.
BASELINE = "deformable_detr/dino_r50_36ep"
_ENCODERS = "*/*dino_*r50_36ep*.yaml"


def encoder_configs() -> list[str]:
    """Names of the configurations that have DINO with ResNet-50 in common: ``BASELINE`` first.

    They differ in the encoder, one folder of configurations for each kind.
    """
    root = Path(model_zoo.get_config_file(BASELINE)).parents[1]
    files = sorted(path.relative_to(root).with_suffix("") for path in root.glob(_ENCODERS))
    return [BASELINE, *(name for name in map(Path.as_posix, files) if name != BASELINE)]


def add_config_arguments(parser: argparse.ArgumentParser, *, weights: bool = True) -> None:
    """Add the options of every command that builds one model.

    Args:
        parser: of the command.
        weights: the command needs trained weights.
    """
    parser.add_argument(
        "--config-file",
        required=True,
        metavar="NAME_OR_PATH",
        help="configuration: a file, or its name in the model zoo",
    )
    if weights:
        parser.add_argument("--weights", metavar="PATH", help="by default MODEL.WEIGHTS")
    add_opts_argument(parser)


def add_opts_argument(parser: argparse.ArgumentParser) -> None:
    """Add ``--opts``, which takes everything behind it."""
    parser.add_argument(
        "--opts",
        nargs=argparse.REMAINDER,
        default=[],
        metavar="KEY VALUE",
        help="changes of the configuration, the last option",
    )


def options_with_weights(args: argparse.Namespace) -> list[str]:
    """``KEY VALUE ...`` of ``--opts`` and ``--weights``."""
    return [*args.opts, *(["MODEL.WEIGHTS", args.weights] if args.weights else [])]


def load_records(
    cfg: CfgNode, dataset: str | None, count: int | None = None
) -> tuple[str, list[dict[str, Any]]]:
    """Name and first ``count`` records of a data set.

    Args:
        cfg: complete configuration.
        dataset: its name; None: the first of ``DATASETS.TEST``.
        count: at most so many; None: all.

    Raises:
        ValueError: there is no such data set, or its files or classes do not fit ``cfg``.
    """
    cfg = cfg.clone()
    cfg.defrost()
    cfg.DATASETS.TEST = (dataset,) if dataset else cfg.DATASETS.TEST[:1]
    check_datasets(cfg, eval_only=True)
    (name,) = cfg.DATASETS.TEST
    return name, DatasetCatalog.get(name)[:count]


@contextmanager
def output_errors(option: str) -> Iterator[None]:
    """Turn a file that cannot be written into one line on stderr and the exit status 1.

    Args:
        option: that names where to write.
    """
    try:
        yield
    except OSError as error:
        with user_errors():
            reason = error.strerror or str(error)
            place = f" {error.filename}" if error.filename else ""
            raise ValueError(
                f"{option}: cannot write{place}: {reason}; name another place, or free some space"
            ) from error


def picture_file(path: str) -> Path:
    """The path of a picture to write, in a folder that is created when needed.

    Raises:
        OSError: the folder cannot be created.
        ValueError: the suffix is not that of a format that can be written.
    """
    known = FigureCanvasBase.get_supported_filetypes()
    suffix = Path(path).suffix.lstrip(".").lower()
    if suffix not in known:
        raise ValueError(f"cannot write the picture {path}: end it with .{', .'.join(known)}")
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    return Path(path)
