"""Evaluate an exported detector on the test sets of a configuration, with ONNX Runtime.

    python -m lite_focus_detr.tools.evaluate_onnx --config-file NAME_OR_PATH --model model.onnx \
        [--opts KEY VALUE ...]

Data sets, preprocessing and evaluation are those of ``train_net.py --eval-only``.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from detectron2.utils.logger import setup_logger

from ..data.validation import check_datasets
from ..engine import DetrTrainer, user_errors
from ..export.onnx_detector import OnnxDetector
from ..predictor import load_inference_config
from .command_line import add_config_arguments


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Run the command; returns the metrics of detectron2's evaluator."""
    parser = argparse.ArgumentParser(description="Evaluate an exported detector.")
    parser.add_argument("--model", required=True, metavar="FILE", help="file of export_model")
    add_config_arguments(parser, weights=False)
    args = parser.parse_args(arguments)
    setup_logger()
    setup_logger(name="lite_focus_detr")
    with user_errors():
        cfg = load_inference_config(args.config_file, args.opts)
        check_datasets(cfg, eval_only=True)
        detector = OnnxDetector(args.model)
    results: dict[str, Any] = DetrTrainer.test(cfg, detector)
    return results


if __name__ == "__main__":
    main()
