"""What the commands share: their options, and what these name."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog

from .. import model_zoo
from ..config import ConfigFile
from ..data.validation import check_datasets
from ..engine import describe_checkpoint, find_weights, user_errors
from ..predictor import Predictor, load_inference_config

#: Least score of what is shown, where the weights do not know a better one.
DEFAULT_THRESHOLD = 0.3
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
        weights: the command takes trained weights, whose configuration is the default.
    """
    add_config_argument(parser, default="the weights" if weights else "")
    if weights:
        add_weights_arguments(parser)
    add_opts_argument(parser)


def add_config_argument(parser: argparse.ArgumentParser, *, default: str) -> None:
    """Add ``--config-file``.

    Args:
        parser: of the command.
        default: what holds another configuration; empty: nothing does.
    """
    text = "configuration: a file, or its name in the model zoo"
    parser.add_argument(
        "--config-file",
        required=not default,
        metavar="NAME_OR_PATH",
        help=f"{text}; by default what {default} holds" if default else text,
    )


def add_weights_arguments(parser: argparse.ArgumentParser) -> None:
    """Add ``--weights``, and ``--trust-imports`` for the configuration in them."""
    parser.add_argument("--weights", metavar="PATH", help="by default MODEL.WEIGHTS")
    add_trust_argument(parser)


def add_models_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of every command that takes several trained models."""
    several: dict[str, Any] = {"action": "extend", "nargs": "+"}
    parser.add_argument(
        "--weights", required=True, metavar="PATH", help="checkpoints, one or more", **several
    )
    parser.add_argument(
        "--config-file",
        default=[],
        metavar="NAME_OR_PATH",
        help="one for all checkpoints, or one for each; by default what they hold",
        **several,
    )
    add_trust_argument(parser)
    add_opts_argument(parser)


def load_predictors(args: argparse.Namespace) -> list[Predictor]:
    """The detectors that the options of :func:`add_models_arguments` name.

    Raises:
        OSError, ValueError: a file is missing or wrong.
    """
    count, files = len(args.weights), args.config_file or [None]
    if len(files) not in (1, count):
        raise ValueError("give --config-file one name for all of --weights, or one for each")
    files = files * (count // len(files))
    options = {"opts": args.opts, "trust_imports": args.trust_imports}
    return [
        Predictor(weights, config=file, **options)
        for weights, file in zip(args.weights, files, strict=True)
    ]


def add_threshold_argument(parser: argparse.ArgumentParser) -> None:
    """Add ``--confidence-threshold``; see :func:`choose_threshold`."""
    parser.add_argument(
        "--confidence-threshold",
        type=float,
        metavar="SCORE",
        help=f"in [0, 1]; by default that of the weights, or {DEFAULT_THRESHOLD}",
    )


def choose_threshold(given: float | None, predictors: Sequence[Predictor]) -> float:
    """The least score that is shown: of the command line, else the first that weights know.

    Raises:
        ValueError: the one of the command line is not in [0, 1].
    """
    if given is None:
        known = (x.threshold for x in predictors if x.threshold is not None)
        return next(known, DEFAULT_THRESHOLD)
    if not 0 <= given <= 1:
        raise ValueError(f"--confidence-threshold {given:g} is not in [0, 1]")
    return given


def add_trust_argument(parser: argparse.ArgumentParser) -> None:
    """Add ``--trust-imports``."""
    parser.add_argument(
        "--trust-imports",
        action="store_true",
        help="import the modules that the configuration in a checkpoint names: runs their code",
    )


def add_opts_argument(parser: argparse.ArgumentParser) -> None:
    """Add ``--opts``, which takes everything behind it."""
    parser.add_argument(
        "--opts",
        nargs=argparse.REMAINDER,
        default=[],
        metavar="KEY VALUE",
        help="changes of the configuration, the last option",
    )


def add_optimize_argument(parser: argparse.ArgumentParser) -> None:
    """Add ``--optimize``, for commands that only detect."""
    parser.add_argument(
        "--optimize",
        nargs="?",
        const="float32",
        choices=("float32", "bfloat16", "int8"),
        help="make the detector faster on this processor first; default precision float32",
    )


def options_with_weights(args: argparse.Namespace) -> list[str]:
    """``KEY VALUE ...`` of ``--opts``, ``--weights`` and, where there is one, ``--optimize``."""
    options = {"MODEL.WEIGHTS": args.weights, "TEST.OPTIMIZE": vars(args).get("optimize")}
    return [*args.opts, *(word for key, value in options.items() if value for word in (key, value))]


def choose_config(
    config_file: str | None, options: Sequence[str], *, trust_imports: bool
) -> ConfigFile:
    """The configuration file of a command line, or what the weights of the command line hold.

    Args:
        config_file: of ``--config-file``.
        options: see :func:`options_with_weights`.
        trust_imports: import the modules that weights name.

    Raises:
        OSError, ValueError: there are neither, or the weights cannot be read or hold none.
    """
    if config_file:
        return config_file
    weights = dict(zip(options[::2], options[1::2], strict=False)).get("MODEL.WEIGHTS")
    if not weights:
        raise ValueError("give --weights, or --config-file, or both")
    return describe_checkpoint(find_weights(weights)).saved_config(trust_imports=trust_imports)


def config_of(args: argparse.Namespace) -> ConfigFile:
    """See :func:`choose_config`; of a command with :func:`add_config_arguments`."""
    options = options_with_weights(args)
    return choose_config(args.config_file, options, trust_imports=args.trust_imports)


def run_config(args: argparse.Namespace) -> ConfigFile:
    """The configuration of a training, or of an evaluation, which may be what the weights hold.

    Args:
        args: of detectron2's ``default_argument_parser``, perhaps with those of
            :func:`add_weights_arguments`; ``--weights`` becomes a part of ``opts``.

    Raises:
        OSError, ValueError: see :func:`choose_config`.
    """
    given = vars(args)
    if given.get("weights"):
        args.opts = [*args.opts, "MODEL.WEIGHTS", given.pop("weights")]
    if args.config_file or not args.eval_only or args.resume:
        return str(args.config_file)
    return choose_config("", args.opts, trust_imports=given.get("trust_imports", False))


def inference_config(args: argparse.Namespace) -> CfgNode:
    """What :func:`load_inference_config` makes of it."""
    return load_inference_config(config_of(args), options_with_weights(args))


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


def output_file(path: str) -> Path:
    """The path of a file to write for ``--output``, in a folder that is created when needed.

    Where it cannot be written, the command ends as in :func:`output_errors`, before its work.
    """
    output = Path(path)
    with output_errors("--output"):
        output.parent.mkdir(parents=True, exist_ok=True)
        is_new = not output.exists()
        output.open("ab").close()
        if is_new:
            output.unlink()
    return output


def picture_file(path: str) -> Path:
    """The path of a picture to write, in a folder that is created when needed.

    Raises:
        OSError: the folder cannot be created.
        ValueError: the suffix is not that of a format that can be written.
    """
    from matplotlib.backend_bases import FigureCanvasBase

    known = FigureCanvasBase.get_supported_filetypes()
    suffix = Path(path).suffix.lstrip(".").lower()
    if suffix not in known:
        raise ValueError(f"cannot write the picture {path}: end it with .{', .'.join(known)}")
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    return Path(path)
