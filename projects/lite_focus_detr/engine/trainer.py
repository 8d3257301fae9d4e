"""detectron2's ``DefaultTrainer`` for the detectors of this package."""

from __future__ import annotations

import logging
import os
import sys
import time
import weakref
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.data import build_detection_test_loader, build_detection_train_loader
from detectron2.engine import DefaultTrainer, HookBase, TrainerBase, hooks
from detectron2.engine.defaults import create_ddp_model
from detectron2.evaluation import COCOEvaluator, verify_results
from detectron2.utils import comm
from detectron2.utils.events import CommonMetricPrinter, EventWriter
from torch import nn

from ..data import DetrDatasetMapper
from ..data.training_stream import TrainingStream
from ..data.worker_watch import dead_workers_named
from ..screen import prints_in_log, screen
from . import signals
from .best_result import BestResult, NoImprovement, StopEarly
from .checkpointer import BEST, DetrCheckpointer
from .detector_record import RECORD, DetectorRecord, classes_of
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
from .progress import LoaderWithBar, ProgressLines
from .results_table import show_results
from .resume import continue_command, restart_scheduler
from .schedule import describe_schedule, resolve_epochs, update_saved_config
from .setup import report, report_once
from .train_data import build_train_stream, training_images
from .train_step import build_train_step

logger = logging.getLogger(__name__)


class DetrTrainer(DefaultTrainer):
    """Trains and evaluates a detector as its configuration says.

    Differs from ``DefaultTrainer`` in the training step (``TrainStep``), the averaged weights
    that evaluation uses (:class:`EMAHook`), the checkpointer, in that several processes also work
    without a GPU, and in that a resumed training ends with what it would have ended with anyway.
    """

    iter: int

    def __init__(self, cfg: CfgNode) -> None:
        """Build data, model, optimiser and hooks.

        Args:
            cfg: complete configuration; with ``SOLVER.EPOCHS`` the attribute ``cfg`` has the
                iterations filled in.
        """
        TrainerBase.__init__(self)
        check_loggers(cfg.LOGGERS)
        cfg = DefaultTrainer.auto_scale_workers(cfg, comm.get_world_size())
        images = training_images(cfg)
        cfg = resolve_epochs(cfg, len(images))
        screen.info("Schedule: %s", describe_schedule(cfg, len(images)))
        if comm.is_main_process():
            update_saved_config(cfg)

        model = self.build_model(cfg)
        optimizer = self.build_optimizer(cfg, model)
        self.num_images = len(images)
        self.classes = classes_of(cfg)
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
            cfg, classes=self.classes, iteration=lambda: this.iterations_made
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
        with dead_workers_named(), prints_in_log(logger):
            return super().test(cfg, model, evaluators)

    def build_hooks(self) -> list[HookBase]:
        """Return detectron2's default hooks and those that make resuming exact.

        With EMA, evaluation takes the averaged weights.
        """
        self.metrics = MetricHistory()
        self._stop_on_signal = StopOnSignal()
        self.evaluation = Evaluation(self.cfg.TEST.EVAL_PERIOD, self.evaluate)
        default: list[HookBase] = super().build_hooks()
        solver = self.cfg.SOLVER
        self.best = BestResult(
            metric=solver.BEST_METRIC,
            patience=solver.PATIENCE,
            evaluation=self.evaluation,
            save=lambda: self.save(BEST),
        )
        found: list[HookBase] = []
        for hook in default:
            evaluates = isinstance(hook, hooks.EvalHook)
            found += [self.evaluation, self.best] if evaluates else [hook]
        finite = RequireFinite(
            period=self.cfg.SOLVER.CHECKPOINT_PERIOD, check=self._trainer.require_finite_state
        )
        ours: list[HookBase] = [SeedSteps(lambda: self.stream.order.seed), self.metrics, finite]
        if self.cfg.SOLVER.KEEP_RATIO_RANGE:
            smallest, largest = self.cfg.SOLVER.KEEP_RATIO_RANGE
            model = self.checkpointer.model
            ours.append(BudgetHook(model=model, smallest=smallest, largest=largest))
        self.progress = ProgressLines(
            images_per_epoch=self.num_images,
            images_per_iteration=solver.IMS_PER_BATCH * solver.ACCUMULATION_STEPS,
            evaluation_period=self.cfg.TEST.EVAL_PERIOD,
            best=self.best,
        )
        # The average first, so that what is saved after a step includes it.
        first = [*ours, *([self.ema] if self.ema else [])]
        last = [self.progress] if comm.is_main_process() else []
        self._stop_early = StopEarly(self.best, lambda: self.save("model_final"))
        return [*first, *found, *last, self._stop_early, self._stop_on_signal]

    def save(self, name: str) -> None:
        """Write a checkpoint besides the regular ones, after a look at what all processes have."""
        self._trainer.require_finite_state()
        if comm.is_main_process():
            # At the end the loop has counted on.
            counted: int = self.iter
            self.iter = self.iterations_made - 1
            self.checkpointer.save(name, iteration=self.iter)
            self.iter = counted

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

    def evaluate(self) -> dict[str, Any]:
        """Evaluate, and remember the metrics for ``TEST.EXPECTED_RESULTS``."""
        model = self.model if self.ema is None else self.ema.average.module
        self._stop_on_signal.after_step()
        start = time.perf_counter()
        with signals.immediate(), self.peers.paused("evaluating"):
            self._last_eval_results: dict[str, Any] = self.test(self.cfg, model)
        self.progress.evaluation_seconds = time.perf_counter() - start
        if self._last_eval_results:
            show_results(self.cfg, self._last_eval_results, iterations=self.iterations_made)
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
        except NoImprovement:
            results = getattr(self, "_last_eval_results", None)
            if self.cfg.TEST.EXPECTED_RESULTS and results:
                verify_results(self.cfg, results)
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
        self.best.after_step()
        for hook in self._hooks:
            if isinstance(hook, hooks.PeriodicWriter):
                hook.after_step()
        self._stop_early.after_step()
        self.iter = self.start_iter

    def after_train(self) -> None:
        """Call the hooks, or only write a checkpoint after a signal."""
        if isinstance(sys.exc_info()[1], signals.Interrupted):
            self.progress.after_train()
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
        return model

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
        return build_train_stream(cfg, training_images(cfg) if dataset is None else dataset)

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
        return LoaderWithBar(build_detection_test_loader(cfg, dataset_name, mapper=mapper))

    @classmethod
    def build_evaluator(cls, cfg: CfgNode, dataset_name: str) -> COCOEvaluator:
        """Return the COCO evaluator; predictions go to ``OUTPUT_DIR/inference``."""
        folder = os.path.join(cfg.OUTPUT_DIR, "inference")
        return ThresholdEvaluator(dataset_name, output_dir=folder)
