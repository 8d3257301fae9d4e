"""detectron2's ``DefaultTrainer`` for the detectors of this package."""

from __future__ import annotations

import logging
import os
import sys
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
from detectron2.utils.events import CommonMetricPrinter, EventWriter
from torch import nn

from ..data import DetrDatasetMapper
from ..data.epoch_order import build_epoch_order
from ..data.training_stream import BatchLayout, TrainingStream
from ..data.validation import check_training_images
from ..data.worker_watch import dead_workers_named
from ..optimization import optimize_as_configured
from . import signals
from .checkpointer import DetrCheckpointer
from .description import RECORD, DetectorRecord, classes_of
from .evaluator import ThresholdEvaluator
from .experiment_writers import build_experiment_writers, check_loggers
from .hooks import (
    BudgetHook,
    EMAHook,
    Evaluation,
    RequireFinite,
    SeedSteps,
    StopOnSignal,
)
from .log_writers import TensorboardFile
from .metrics import MetricHistory, MetricsFile
from .optimizer import build_optimizer
from .output_lock import keep_output_for_restart, release_output
from .peers import PeerLostError, PeerWatch
from .resume import continue_command, restart_scheduler
from .schedule import describe_schedule, resolve_epochs, update_saved_config
from .setup import report, report_once
from .train_step import build_train_step

logger = logging.getLogger(__name__)


class DetrTrainer(DefaultTrainer):
    """Trains and evaluates a detector as its configuration says.

    Differs from ``DefaultTrainer`` in the training step (``TrainStep``), the averaged weights
    that evaluation uses (:class:`EMAHook`), the checkpointer, in that several processes also work
    without a GPU, and in that a resumed training ends with what it would have ended with anyway.
    """

    def __init__(self, cfg: CfgNode) -> None:
        """Build data, model, optimiser and hooks.

        Args:
            cfg: complete configuration; with ``SOLVER.EPOCHS`` the attribute ``cfg`` has the
                iterations filled in.
        """
        TrainerBase.__init__(self)
        check_loggers(cfg.LOGGERS)
        cfg = DefaultTrainer.auto_scale_workers(cfg, comm.get_world_size())
        images = _training_images(cfg)
        cfg = resolve_epochs(cfg, len(images))
        logger.info("Schedule: %s", describe_schedule(cfg, len(images)))
        if comm.is_main_process():
            update_saved_config(cfg)

        model = self.build_model(cfg)
        optimizer = self.build_optimizer(cfg, model)
        self.stream = self.build_train_stream(cfg, images)
        data_loader = self.build_train_loader(cfg, self.stream)
        device_ids = [comm.get_local_rank()] if next(model.parameters()).is_cuda else None
        wrapped = create_ddp_model(model, broadcast_buffers=False, device_ids=device_ids)
        self._trainer = build_train_step(cfg, wrapped, data_loader, optimizer)
        self._trainer.when_data_is_here = lambda: self.peers.doing("computing", self.iter)
        self.scheduler = self.build_lr_scheduler(cfg, optimizer)

        self.ema: EMAHook | None = None
        this = weakref.proxy(self)
        self.record = DetectorRecord(
            cfg, classes=classes_of(cfg), iteration=lambda: this.iterations_made
        )
        checkpointables: dict[str, Any] = {"trainer": this, RECORD: self.record}
        if cfg.MODEL.EMA.ENABLED:
            self.ema = EMAHook(model=model, decay=cfg.MODEL.EMA.DECAY)
            checkpointables["ema"] = self.ema.average
        self.checkpointer = DetrCheckpointer(model, cfg.OUTPUT_DIR, cfg=cfg, **checkpointables)
        self.peers = PeerWatch(report)
        self.checkpointer.while_saving = lambda: self.peers.paused("writing a checkpoint")
        self.start_iter = 0
        self.max_iter = cfg.SOLVER.MAX_ITER
        self.cfg = cfg
        self.register_hooks(self.build_hooks())

    def run_step(self) -> None:
        """Take a step.

        Raises:
            DataError: an image cannot be read, or a process that loads data has died.
        """
        self.peers.doing("waiting for its data", self.iter)
        with dead_workers_named():
            super().run_step()

    @classmethod
    def test(cls, cfg: CfgNode, model: nn.Module, evaluators: Any = None) -> Any:
        """Evaluate on ``DATASETS.TEST``; see ``DefaultTrainer``.

        Raises:
            DataError: as :meth:`run_step`.
        """
        with dead_workers_named():
            return super().test(cfg, model, evaluators)

    def build_hooks(self) -> list[HookBase]:
        """Return detectron2's default hooks and those that make resuming exact.

        With EMA, evaluation takes the averaged weights.
        """
        self.metrics = MetricHistory()
        self._stop_on_signal = StopOnSignal()
        self.evaluation = Evaluation(self.cfg.TEST.EVAL_PERIOD, self._evaluate)
        default: list[HookBase] = super().build_hooks()
        found = [self.evaluation if isinstance(h, hooks.EvalHook) else h for h in default]
        finite = RequireFinite(
            period=self.cfg.SOLVER.CHECKPOINT_PERIOD, check=self._trainer.require_finite_state
        )
        ours: list[HookBase] = [SeedSteps(lambda: self.stream.order.seed), self.metrics, finite]
        if self.cfg.SOLVER.KEEP_RATIO_RANGE:
            smallest, largest = self.cfg.SOLVER.KEEP_RATIO_RANGE
            model = self.checkpointer.model
            ours.append(BudgetHook(model=model, smallest=smallest, largest=largest))
        # The average first, so that what is saved after a step includes it.
        return [*ours, *([self.ema] if self.ema else []), *found, self._stop_on_signal]

    def build_writers(self) -> list[EventWriter]:
        """Return the writers of the log, ``metrics.json``, TensorBoard's file and ``LOGGERS``."""
        self.metrics.file = MetricsFile(os.path.join(self.cfg.OUTPUT_DIR, "metrics.json"))
        self.writers: list[EventWriter] = [
            CommonMetricPrinter(self.max_iter),
            self.metrics.file,
            TensorboardFile(self.cfg.OUTPUT_DIR),
            *build_experiment_writers(self.cfg),
        ]
        return self.writers

    def _evaluate(self) -> dict[str, Any]:
        """Evaluate, and remember the metrics for ``TEST.EXPECTED_RESULTS``."""
        model = self.model if self.ema is None else self.ema.average.module
        self._stop_on_signal.after_step()
        with signals.immediate(), self.peers.paused("evaluating"):
            self._last_eval_results: dict[str, Any] = self.test(self.cfg, model)
        if self._last_eval_results:
            self.record.note_evaluation(self._last_eval_results)
            evaluation, last = self.record.evaluation(), self.iterations_made - 1
            self.checkpointer.add_to_saved(RECORD, evaluation, iteration=last)
        return self._last_eval_results

    @property
    def iterations_made(self) -> int:
        """How many there are after the present one; the loop has counted on when it ends."""
        return min(self.iter + 1, self.max_iter)

    def train(self) -> Any:
        """Train to the end, or until a signal or an error ends all processes.

        Returns:
            the metrics of the last evaluation on the first process, if ``TEST.EXPECTED_RESULTS``
            are given.

        Raises:
            Interrupted: after a signal; a checkpoint was written.
            SystemExit: a process is missing; the user has been told in one line.
        """
        self.peers = PeerWatch(report)
        try:
            with signals.handled(), signals.deferred(), self.peers.running():
                results = super().train()
        except signals.Interrupted as interrupted:
            keep_output_for_restart(self.cfg.OUTPUT_DIR)
            self._tell_how_to_continue(interrupted)
            raise
        except PeerLostError as error:
            line = f"error: {error}: all processes stop. Continue with --resume"
            raise SystemExit(report_once(line)) from error
        finally:
            release_output(self.cfg.OUTPUT_DIR)
        return results

    def _tell_how_to_continue(self, interrupted: signals.Interrupted) -> None:
        first = comm.is_main_process() and not interrupted.reported
        interrupted.reported = True
        if not first:
            return
        report(
            f"{interrupted.signal_name}: stopped after {self.iterations_made} of "
            f"{self.max_iter} iterations, which are saved. Continue with: "
            f"{continue_command(sys.argv)}"
        )

    def _save_before_leaving(self) -> None:
        """What is left to do in all processes when a signal has ended the loop."""
        if comm.is_main_process() and self.iter < self.max_iter:
            self.checkpointer.save(f"model_{self.iter:07d}", iteration=self.iter)
            for writer in self.writers:
                writer.close()
        self.peers.finish_together()

    def before_train(self) -> None:
        """Call the hooks; after resuming make up for what the last step has left to do.

        A checkpoint is written in the middle of what hooks do after a step: the evaluation and
        the writing of the metrics come later.
        """
        super().before_train()
        last = self.start_iter - 1
        if last < 0:
            return
        self.iter = self.storage.iter = last
        if any(comm.all_gather(self.metrics.found_evaluation)):
            self.evaluation.last = last
        if self.evaluation.is_due(last):
            self.evaluation.after_step()
        for hook in self._hooks:
            if isinstance(hook, hooks.PeriodicWriter):
                hook.after_step()
        self.iter = self.start_iter

    def after_train(self) -> None:
        """Call the hooks, or only write a checkpoint after a signal."""
        if isinstance(sys.exc_info()[1], signals.Interrupted):
            self._save_before_leaving()
            return
        # When nothing was left to train the loop has counted one too many.
        self.iter = min(self.iter, self.max_iter)
        super().after_train()

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed training needs beside the weights and their average."""
        state: dict[str, Any] = super().state_dict()
        state["stream"] = self.stream.state_dict(self._batches_since_start(self.iter + 1))
        state["threads"] = self._threads()
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what ``state_dict`` returned; learning rates are those of the configuration.

        A line of the log says when the training that follows will not be bit for bit the one that
        was interrupted.
        """
        super().load_state_dict(state_dict)
        restart_scheduler(self.scheduler, self.optimizer)
        differences = ["a checkpoint of an earlier version, which has no position in the data"]
        if "stream" in state_dict:
            differences = self.stream.load_state_dict(state_dict["stream"])
        else:
            self.stream.taken = self._batches_since_start(self.iter + 1)
        if state_dict.get("threads", self._threads()) != self._threads():
            differences.append(f"threads {state_dict['threads']} to {self._threads()}")
        if differences:
            logger.warning(
                "Continuing at the position in the data that was reached. The result will not be "
                "bit for bit that of an uninterrupted training: %s",
                ", ".join(differences),
            )

    def _batches_since_start(self, iteration: int) -> int:
        """Batches that each process has taken of the stream before an iteration."""
        steps = iteration - self.start_iter
        return self.stream.taken + steps * int(self.cfg.SOLVER.ACCUMULATION_STEPS)

    def _threads(self) -> int:
        """Threads that sums on the CPU are split among, which decides how they are rounded."""
        return torch.get_num_threads() if self.cfg.MODEL.DEVICE == "cpu" else 0

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
        return optimize_as_configured(model, cfg)

    @classmethod
    def build_optimizer(cls, cfg: CfgNode, model: nn.Module) -> torch.optim.Optimizer:
        """See :func:`build_optimizer`."""
        return build_optimizer(cfg, model)

    @classmethod
    def build_train_stream(
        cls, cfg: CfgNode, dataset: list[dict[str, Any]] | None = None
    ) -> TrainingStream:
        """Return the endless stream of augmented images of this process.

        Args:
            cfg: complete configuration; with a negative ``SEED`` the processes agree on one.
            dataset: records of ``DATASETS.TRAIN``; None reads them.

        Raises:
            ValueError: the data sets have no image to train with, or the batch size does not fit.
        """
        if dataset is None:
            dataset = _training_images(cfg)
        mapper = DetrDatasetMapper(cfg, is_train=True)
        if cfg.INPUT.SKIP_UNREADABLE:
            mapper.skip_unreadable(len(dataset))
        world_size, total = comm.get_world_size(), cfg.SOLVER.IMS_PER_BATCH
        if total % world_size:
            raise ValueError(
                f"SOLVER.IMS_PER_BATCH {total} cannot be divided among {world_size} processes"
            )
        seed = cfg.SEED if cfg.SEED >= 0 else comm.shared_random_seed()
        grouped = cfg.DATALOADER.ASPECT_RATIO_GROUPING
        return TrainingStream(
            dataset,
            mapper,
            order=build_epoch_order(cfg, dataset, seed=seed),
            layout=BatchLayout(total // world_size, world_size, grouped),
            rank=comm.get_rank(),
        )

    @classmethod
    def build_train_loader(cls, cfg: CfgNode, stream: TrainingStream | None = None) -> Any:
        """Return detectron2's loader of a stream.

        Args:
            cfg: complete configuration.
            stream: of ``build_train_stream``; None builds it.
        """
        if stream is None:
            stream = cls.build_train_stream(cfg)
        return build_detection_train_loader(
            stream,
            mapper=None,
            total_batch_size=cfg.SOLVER.IMS_PER_BATCH,
            aspect_ratio_grouping=cfg.DATALOADER.ASPECT_RATIO_GROUPING,
            num_workers=cfg.DATALOADER.NUM_WORKERS,
            seed=stream.order.seed % 2**63,
        )

    @classmethod
    def build_test_loader(cls, cfg: CfgNode, dataset_name: str) -> Any:
        """Return detectron2's loader of a data set, without augmentation."""
        mapper = DetrDatasetMapper(cfg, is_train=False)
        return build_detection_test_loader(cfg, dataset_name, mapper=mapper)

    @classmethod
    def build_evaluator(cls, cfg: CfgNode, dataset_name: str) -> COCOEvaluator:
        """Return the COCO evaluator; predictions go to ``OUTPUT_DIR/inference``."""
        folder = os.path.join(cfg.OUTPUT_DIR, "inference")
        return ThresholdEvaluator(dataset_name, output_dir=folder)


def _training_images(cfg: CfgNode) -> list[dict[str, Any]]:
    filter_empty = cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS
    try:
        images: list[dict[str, Any]] = get_detection_dataset_dicts(
            cfg.DATASETS.TRAIN, filter_empty=filter_empty
        )
    except AssertionError as error:  # detectron2 asserts what the user gives
        remedy = "; set DATALOADER.FILTER_EMPTY_ANNOTATIONS False to keep images without objects"
        text = str(error).rstrip(".") + (remedy if filter_empty else "")
        raise ValueError(f"DATASETS.TRAIN {cfg.DATASETS.TRAIN}: {text}") from error
    check_training_images(cfg, images)
    return images
