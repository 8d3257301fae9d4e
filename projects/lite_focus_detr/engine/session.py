"""A training or an evaluation of one process, from its configuration to the metrics."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.evaluation import verify_results
from detectron2.utils import comm
from torch import nn

from ..optimization import optimize_as_configured
from ..screen import screen
from .description import format_classes
from .detector_record import num_classes
from .results_table import format_results
from .setup import RUN_ERRORS, user_errors
from .summary import show_model
from .trainer import DetrTrainer

if TYPE_CHECKING:
    from ..export.onnx_detector import OnnxDetector


def train_or_evaluate(cfg: CfgNode, args: argparse.Namespace) -> dict[str, Any] | None:
    """Train, or evaluate with ``args.eval_only``; a mistake of the user ends with one line.

    Args:
        cfg: complete configuration, after ``prepare_run``.
        args: of detectron2's ``default_argument_parser``.

    Returns:
        the metrics of the last evaluation.
    """
    return evaluate(cfg, args) if args.eval_only else train(cfg, args)


def train(cfg: CfgNode, args: argparse.Namespace) -> dict[str, Any] | None:
    """Train; see :func:`train_or_evaluate`."""
    with user_errors():
        trainer = DetrTrainer(cfg)
        trainer.resume_or_load(resume=args.resume)
        loaded = cfg.MODEL.WEIGHTS or "random"
        reached = f"of {cfg.OUTPUT_DIR}, after {trainer.start_iter} iterations"
        weights = reached if trainer.start_iter else loaded
        names = trainer.classes.names
        show_model(cfg, trainer.checkpointer.model, class_names=names, weights=weights)
    with user_errors(*RUN_ERRORS):
        results: dict[str, Any] | None = trainer.train()
    if comm.is_main_process():
        screen.info("Weights, metrics and log are in %s", cfg.OUTPUT_DIR)
    return results


def evaluate(cfg: CfgNode, args: argparse.Namespace) -> dict[str, Any] | None:
    """Evaluate; see :func:`train_or_evaluate`. With ``args.onnx``, a file of ``export_onnx``, it is
    this that detects."""
    with user_errors():
        exported = vars(args).get("onnx")
        if exported:
            cfg, model = _load_exported(cfg, exported)
        else:
            model = _load(cfg, resume=args.resume)
    with user_errors(*RUN_ERRORS):
        results: dict[str, Any] = DetrTrainer.test(cfg, model)
    if comm.is_main_process():
        screen.info("%s", format_results(results, cfg.DATASETS.TEST[0]))
        verify_results(cfg, results)
    return results


def _load(cfg: CfgNode, *, resume: bool) -> nn.Module:
    model = DetrTrainer.load_model(cfg, resume=resume)
    names = MetadataCatalog.get(cfg.DATASETS.TEST[0]).get("thing_classes")
    show_model(cfg, model, class_names=names, weights=cfg.MODEL.WEIGHTS or "random")
    return optimize_as_configured(model, cfg)


def _load_exported(cfg: CfgNode, path: str) -> tuple[CfgNode, nn.Module]:
    """An exported file as a detector, and the configuration of the images that it takes."""
    from ..export.onnx_detector import OnnxDetector  # slow to import, and few need it

    if cfg.TEST.OPTIMIZE != "none":
        raise ValueError("an exported file cannot be optimised: leave --optimize out, or --onnx")
    detector = OnnxDetector(path)
    if detector.input_format != cfg.INPUT.FORMAT:
        raise ValueError(
            f"{path} takes images in {detector.input_format} order, and INPUT.FORMAT is "
            f"{cfg.INPUT.FORMAT}: it is of another detector"
        )
    _require_same_classes(cfg, path, detector)
    screen.info("Model: %s, in ONNX Runtime", path)
    if detector.resizes:
        cfg = cfg.clone()
        cfg.defrost()
        cfg.INPUT.MIN_SIZE_TEST = 0
        cfg.freeze()
    return cfg, detector


def _require_same_classes(cfg: CfgNode, path: str, detector: OnnxDetector) -> None:
    names, count = MetadataCatalog.get(cfg.DATASETS.TEST[0]).get("thing_classes"), num_classes(cfg)
    found, found_count = detector.class_names, detector.num_classes
    same_names = names is None or found is None or list(names) == list(found)
    if found_count == count and same_names:
        return
    raise ValueError(
        f"{path} has {_describe(found, found_count)}, and the detector of this evaluation "
        f"{_describe(names, count)}: it is of another detector"
    )


def _describe(names: Sequence[str] | None, count: int) -> str:
    return f"{count} classes" if names is None else format_classes(names)
