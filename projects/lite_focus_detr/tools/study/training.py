"""One training of a study, and what it leaves behind."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog
from detectron2.engine import HookBase, default_argument_parser

from ...analysis.token_selection import SelectionSummary, relative_boxes, trace_selection
from ...data import DetrDatasetMapper
from ...engine import DetrTrainer, prepare_run
from ...modeling import DetectionTransformer

#: The file that a finished training leaves in its folder.
RESULT = "result.json"


class StepTimer(HookBase):
    """Adds up the processor time of the training steps, of this process only."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.steps = 0

    def before_step(self) -> None:
        """Start."""
        self._start = time.process_time()

    def after_step(self) -> None:
        """Stop."""
        self.seconds += time.process_time() - self._start
        self.steps += 1


def train(
    cfg: CfgNode, num_images: int, build_trainer: Callable[[CfgNode], DetrTrainer] = DetrTrainer
) -> None:
    """Train, or go on with, the detector of ``cfg`` and write ``RESULT`` beside its metrics.json.

    Args:
        cfg: of the training, with its folder as ``OUTPUT_DIR``.
        num_images: of the test set, of which the selection of tokens is measured.
        build_trainer: of the configuration.

    Raises:
        ValueError: something in ``cfg`` or the data is wrong.
    """
    prepare_run(cfg, default_argument_parser().parse_args([]))
    trainer, timer = build_trainer(cfg), StepTimer()
    trainer.register_hooks([timer])
    trainer.resume_or_load(resume=True)
    trainer.train()
    metrics = last_metrics(Path(cfg.OUTPUT_DIR) / "metrics.json")
    result = {
        "iterations": cfg.SOLVER.MAX_ITER,
        "step_seconds": timer.seconds / max(timer.steps, 1),
        "ap": {key.removeprefix("bbox/"): value for key, value in metrics.items()},
        "recall": token_recall(trainer.model.eval(), cfg, num_images),
    }
    (Path(cfg.OUTPUT_DIR) / RESULT).write_text(json.dumps(result, indent=1) + "\n")


def last_metrics(path: Path) -> dict[str, float]:
    """The results of the last evaluation in a metrics.json.

    Raises:
        ValueError: it has none.
    """
    for line in reversed(path.read_text().splitlines()):
        metrics = {k: v for k, v in json.loads(line).items() if k.startswith("bbox/AP")}
        if metrics:
            return metrics
    raise ValueError(f"{path} has no evaluation")


def token_recall(
    model: DetectionTransformer, cfg: CfgNode, num_images: int
) -> dict[str, float] | None:
    """Share of the tokens in boxes that the last encoder layer updates, by the size of the object;
    None for encoders that update all."""
    if not model.encoder.keep_ratios:
        return None
    mapper = DetrDatasetMapper(cfg, is_train=False)
    summary = SelectionSummary()
    for record in DatasetCatalog.get(cfg.DATASETS.TEST[0])[:num_images]:
        inputs: dict[str, Any] = mapper(record)
        size = inputs["width"], inputs["height"]
        boxes = relative_boxes(record["annotations"], *size)
        areas = (boxes[:, 2:] - boxes[:, :2]).prod(-1) * torch.tensor(float(size[0] * size[1]))
        summary.add(trace_selection(model, inputs), boxes, areas)
    return summary.placement()[-1].recall
