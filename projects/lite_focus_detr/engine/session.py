"""A training or an evaluation of one process, from its configuration to the metrics."""

from __future__ import annotations

import argparse
from typing import Any

from detectron2.config import CfgNode
from detectron2.evaluation import verify_results
from detectron2.utils import comm

from .setup import RUN_ERRORS, user_errors
from .trainer import DetrTrainer


def train_or_evaluate(cfg: CfgNode, args: argparse.Namespace) -> dict[str, Any] | None:
    """Train, or evaluate with ``args.eval_only``; a mistake of the user ends with one line.

    Args:
        cfg: complete configuration, after ``prepare_run``.
        args: of detectron2's ``default_argument_parser``.

    Returns:
        the metrics of the last evaluation.
    """
    with user_errors():
        if args.eval_only:
            model = DetrTrainer.load_model(cfg, resume=args.resume)
        else:
            trainer = DetrTrainer(cfg)
            trainer.resume_or_load(resume=args.resume)
    with user_errors(*RUN_ERRORS):
        results: dict[str, Any] | None = (
            DetrTrainer.test(cfg, model) if args.eval_only else trainer.train()
        )
    if args.eval_only and comm.is_main_process():
        verify_results(cfg, results)
    return results
