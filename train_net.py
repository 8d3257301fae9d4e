#!/usr/bin/env python3
"""Train or evaluate a detector.

    python train_net.py --config-file configs/deformable_detr/dino_r50_12ep.yaml --num-gpus 8
    python train_net.py --config-file ... --eval-only MODEL.WEIGHTS model_final.pth
    python train_net.py --config-file ... --resume

The options are detectron2's; ``KEY VALUE`` pairs at the end change the configuration.
"""

from __future__ import annotations

import argparse
from typing import Any

from detectron2.config import CfgNode, get_cfg
from detectron2.engine import default_argument_parser
from detectron2.evaluation import verify_results
from detectron2.utils import comm

from lite_focus_detr.config import (
    add_lite_focus_detr_config,
    import_modules,
    merge_config,
    validate_config,
)
from lite_focus_detr.engine import RUN_ERRORS, DetrTrainer, prepare_run, run, user_errors


def setup(args: argparse.Namespace) -> CfgNode:
    """Create the configuration and prepare the run; keys of your own are added here."""
    import_modules(args.config_file, args.opts)
    cfg = get_cfg()
    add_lite_focus_detr_config(cfg)
    merge_config(cfg, args.config_file, args.opts)
    validate_config(cfg)
    prepare_run(cfg, args)
    return cfg


def main(args: argparse.Namespace) -> dict[str, Any] | None:
    """Train or evaluate in this process; return the metrics."""
    with user_errors():
        cfg = setup(args)
        if args.eval_only:
            model = DetrTrainer.load_model(cfg, resume=args.resume)
        else:
            trainer = DetrTrainer(cfg)
            trainer.resume_or_load(resume=args.resume)
    with user_errors(*RUN_ERRORS):
        results = DetrTrainer.test(cfg, model) if args.eval_only else trainer.train()
    if not args.eval_only:
        return results
    if comm.is_main_process():
        verify_results(cfg, results)
    return results


if __name__ == "__main__":
    run(main, default_argument_parser().parse_args())
