"""detectron2's ``DefaultTrainer`` for the detectors of this package."""

from __future__ import annotations

import os
import weakref
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.data import (
    build_detection_test_loader,
    build_detection_train_loader,
    get_detection_dataset_dicts,
)
from detectron2.engine import DefaultTrainer, HookBase, TrainerBase, hooks
from detectron2.engine.defaults import create_ddp_model
from detectron2.evaluation import COCOEvaluator
from detectron2.utils import comm
from torch import nn

from ..data import DetrDatasetMapper
from .checkpointer import DetrCheckpointer
from .hooks import EMAHook
from .optimizer import FULL_MODEL, build_optimizer
from .schedule import resolve_epochs
from .train_step import TrainStep


class DetrTrainer(DefaultTrainer):
    """Trains and evaluates a detector as its configuration says.

    Differs from ``DefaultTrainer`` in the training step (:class:`TrainStep`), the averaged weights
    that evaluation uses (:class:`EMAHook`), the checkpointer, and in that several processes also
    work without a GPU.
    """

    def __init__(self, cfg: CfgNode) -> None:
        """Build data, model, optimiser and hooks.

        Args:
            cfg: complete configuration; with ``SOLVER.EPOCHS`` the attribute ``cfg`` has the
                iterations filled in.
        """
        TrainerBase.__init__(self)
        cfg = DefaultTrainer.auto_scale_workers(cfg, comm.get_world_size())
        images = get_detection_dataset_dicts(
            cfg.DATASETS.TRAIN, filter_empty=cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS
        )
        cfg = resolve_epochs(cfg, len(images))

        model = self.build_model(cfg)
        optimizer = self.build_optimizer(cfg, model)
        data_loader = self.build_train_loader(cfg, images)
        device_ids = [comm.get_local_rank()] if next(model.parameters()).is_cuda else None
        wrapped = create_ddp_model(model, broadcast_buffers=False, device_ids=device_ids)
        self._trainer = _build_train_step(cfg, wrapped, data_loader, optimizer)
        self.scheduler = self.build_lr_scheduler(cfg, optimizer)

        self.ema: EMAHook | None = None
        checkpointables: dict[str, Any] = {"trainer": weakref.proxy(self)}
        if cfg.MODEL.EMA.ENABLED:
            self.ema = EMAHook(model=model, decay=cfg.MODEL.EMA.DECAY)
            checkpointables["ema"] = self.ema.average
        self.checkpointer = DetrCheckpointer(model, cfg.OUTPUT_DIR, cfg=cfg, **checkpointables)
        self.start_iter = 0
        self.max_iter = cfg.SOLVER.MAX_ITER
        self.cfg = cfg
        self.register_hooks(self.build_hooks())

    def build_hooks(self) -> list[HookBase]:
        """Return detectron2's default hooks; with EMA, evaluation takes the averaged weights."""
        default: list[HookBase] = super().build_hooks()
        if self.ema is None:
            return default
        average = self.ema.average.module

        def evaluate_average() -> dict[str, Any]:
            """Evaluate, and remember the metrics as the function that this replaces does."""
            self._last_eval_results: dict[str, Any] = self.test(self.cfg, average)
            return self._last_eval_results

        evaluation = hooks.EvalHook(self.cfg.TEST.EVAL_PERIOD, evaluate_average)
        others = [evaluation if isinstance(h, hooks.EvalHook) else h for h in default]
        # First, so that what is saved after a step includes its average.
        return [self.ema, *others]

    @classmethod
    def load_model(cls, cfg: CfgNode, *, resume: bool = False) -> nn.Module:
        """Build a model with saved weights, to evaluate it with ``test``.

        Args:
            cfg: complete configuration; ``MODEL.WEIGHTS`` names the file; empty leaves
                the weights random, with a warning.
            resume: take the newest checkpoint of ``OUTPUT_DIR`` instead.

        Raises:
            FileNotFoundError, ValueError: see :meth:`DetrCheckpointer.load`.
        """
        model: nn.Module = cls.build_model(cfg)
        checkpointer = DetrCheckpointer(model, cfg.OUTPUT_DIR, cfg=cfg, for_inference=True)
        checkpointer.resume_or_load(cfg.MODEL.WEIGHTS, resume=resume)
        return model

    @classmethod
    def build_optimizer(cls, cfg: CfgNode, model: nn.Module) -> torch.optim.Optimizer:
        """See :func:`build_optimizer`."""
        return build_optimizer(cfg, model)

    @classmethod
    def build_train_loader(cls, cfg: CfgNode, dataset: list[dict[str, Any]] | None = None) -> Any:
        """Return detectron2's loader with the DETR augmentation.

        Args:
            cfg: complete configuration.
            dataset: records of ``DATASETS.TRAIN``; None reads them.

        Raises:
            ValueError: the data sets have no image to train with, or the batch size does not fit.
        """
        mapper = DetrDatasetMapper(cfg, is_train=True)
        try:
            return build_detection_train_loader(cfg, mapper=mapper, dataset=dataset)
        except AssertionError as error:  # detectron2 asserts what the user gives
            raise ValueError(f"DATASETS.TRAIN {cfg.DATASETS.TRAIN}: {error}") from error

    @classmethod
    def build_test_loader(cls, cfg: CfgNode, dataset_name: str) -> Any:
        """Return detectron2's loader of a data set, without augmentation."""
        mapper = DetrDatasetMapper(cfg, is_train=False)
        return build_detection_test_loader(cfg, dataset_name, mapper=mapper)

    @classmethod
    def build_evaluator(cls, cfg: CfgNode, dataset_name: str) -> COCOEvaluator:
        """Return the COCO evaluator; predictions go to ``OUTPUT_DIR/inference``."""
        return COCOEvaluator(dataset_name, output_dir=os.path.join(cfg.OUTPUT_DIR, "inference"))


def _build_train_step(
    cfg: CfgNode, model: nn.Module, data_loader: Any, optimizer: torch.optim.Optimizer
) -> TrainStep:
    solver = cfg.SOLVER
    clip = solver.CLIP_GRADIENTS
    full_model = clip.ENABLED and clip.CLIP_TYPE == FULL_MODEL
    return TrainStep(
        model=model,
        data_loader=data_loader,
        optimizer=optimizer,
        accumulation_steps=solver.ACCUMULATION_STEPS,
        amp_dtype=getattr(torch, solver.AMP.DTYPE) if solver.AMP.ENABLED else None,
        max_grad_norm=clip.CLIP_VALUE if full_model else None,
        norm_type=clip.NORM_TYPE,
    )
