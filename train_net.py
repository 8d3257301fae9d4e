#!/usr/bin/env python3
"""Train or evaluate a detector.

    python train_net.py --config-file configs/deformable_detr/dino_r50_12ep.yaml --num-gpus 8
    python train_net.py --eval-only --weights model_final.pth
    python train_net.py --config-file ... --resume

``--config-file`` also takes the name of a configuration of the model zoo; an evaluation finds it in
the weights. The other options are detectron2's; ``KEY VALUE`` pairs at the end change the
configuration, and ``--weights FILE`` stands for ``MODEL.WEIGHTS FILE``.
"""

from __future__ import annotations

import argparse
from typing import Any

from detectron2.config import CfgNode, get_cfg
from detectron2.engine import default_argument_parser

from lite_focus_detr import model_zoo
from lite_focus_detr.config import (
    add_lite_focus_detr_config,
    import_modules,
    merge_config,
    validate_config,
)
from lite_focus_detr.engine import prepare_run, run, train_or_evaluate, user_errors
from lite_focus_detr.tools.command_line import add_weights_arguments, run_config


def setup(args: argparse.Namespace) -> CfgNode:
    """Create the configuration and prepare the run; keys of your own are added here."""
    args.config_file = model_zoo.find_config_file(run_config(args))
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
    return train_or_evaluate(cfg, args)


if __name__ == "__main__":
    parser = default_argument_parser()
    add_weights_arguments(parser)
    run(main, parser.parse_args())
