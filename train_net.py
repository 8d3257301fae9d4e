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

from detectron2.engine import default_argument_parser
from detectron2.evaluation import verify_results
from detectron2.utils import comm

from lite_focus_detr.engine import DetrTrainer, run, setup, user_errors


def main(args: argparse.Namespace) -> dict[str, Any] | None:
    """Train or evaluate in this process; return the metrics."""
    with user_errors():
        cfg = setup(args)
        if args.eval_only:
            model = DetrTrainer.load_model(cfg, resume=args.resume)
        else:
            trainer = DetrTrainer(cfg)
            trainer.resume_or_load(resume=args.resume)
    if not args.eval_only:
        return trainer.train()
    results = DetrTrainer.test(cfg, model)
    if comm.is_main_process():
        verify_results(cfg, results)
    return results


if __name__ == "__main__":
    run(main, default_argument_parser().parse_args())
