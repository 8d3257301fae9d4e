"""The best evaluation of a training: it is saved, and a training that finds no better ends."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from detectron2.engine import HookBase
from detectron2.utils import comm

from ..screen import screen
from .hooks import Evaluation
from .metrics import MetricError

#: What is followed where ``SOLVER.BEST_METRIC`` is empty.
DEFAULT_METRIC = "bbox/AP"


class NoImprovement(BaseException):
    """Ends a training that has not become better for ``SOLVER.PATIENCE`` evaluations.

    detectron2 would log an ``Exception`` as an error.
    """


class BestResult(HookBase):
    """Follows a metric; to be called after the evaluation of an iteration.

    Its state is in the checkpoints: a resumed training goes on as if it had not been interrupted.
    """

    def __init__(
        self, *, metric: str, patience: int, evaluation: Evaluation, save: Callable[[], None]
    ) -> None:
        """Follow a metric of which more is better.

        Args:
            metric: name in the metrics, such as ``bbox/AP``; empty follows that one, and saves
                nothing.
            patience: evaluations without improvement that end the training; 0 does not.
            evaluation: that puts the metrics into the storage of the trainer.
            save: called in all processes when the metric is the best so far.
        """
        self.metric = metric or DEFAULT_METRIC
        self.patience = patience
        self.evaluation = evaluation
        self._save = save if metric else None
        self._seen = -1  # after an error the end of the training calls again
        #: Best value, nan before the first; after how many iterations.
        self.value, self.iterations = math.nan, 0
        #: Evaluations since then, and after how many iterations the last one was.
        self.since, self.evaluated = 0, 0

    def state_dict(self) -> dict[str, Any]:
        """The best value, and the evaluations since."""
        return {
            "metric": self.metric,
            "value": self.value,
            "iterations": self.iterations,
            "since": self.since,
            "evaluated": self.evaluated,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore it, unless it is of another metric."""
        if state_dict["metric"] != self.metric:
            return
        self.value, self.iterations = state_dict["value"], state_dict["iterations"]
        self.since, self.evaluated = state_dict["since"], state_dict["evaluated"]

    def after_step(self) -> None:
        """Look at the evaluation of this iteration, if there was one.

        Raises:
            MetricError: it has no such metric; names those that it has.
        """
        self._look()

    def after_train(self) -> None:
        """Look at the last evaluation."""
        self._look()

    def _look(self) -> None:
        if self.evaluation.last != self.trainer.iter or self._seen == self.trainer.iter:
            return
        self._seen = self.trainer.iter
        metrics: dict[str, float] = {}
        if comm.is_main_process():
            latest = self.trainer.storage.latest()
            metrics = {
                name: value
                for name, (value, iteration) in latest.items()
                if iteration == self.trainer.iter and "/" in name
            }
        metrics = comm.all_gather(metrics)[0]
        if self.metric in metrics:
            self._keep_if_best(metrics[self.metric])
        elif self._save is not None or self.patience:
            raise MetricError(
                f"SOLVER.BEST_METRIC {self.metric} is none of the metrics of the evaluation: "
                f"{', '.join(sorted(metrics)) or 'there are none'}"
            )

    def _keep_if_best(self, value: float) -> None:
        # At the end the loop has counted on.
        iterations = min(self.trainer.iter + 1, self.trainer.max_iter)
        if iterations <= self.evaluated:  # a resumed training has looked at it before
            return
        self.evaluated = iterations
        if math.isnan(value) or value <= self.value:
            self.since += 1
            return
        self.value, self.iterations, self.since = value, iterations, 0
        if self._save is not None:
            self._save()

    @property
    def is_exhausted(self) -> bool:
        """Whether there was no improvement for as long as patience lasts."""
        return 0 < self.patience <= self.since


class StopEarly(HookBase):
    """Ends a training whose best result is too long ago; to be a late hook."""

    def __init__(self, best: BestResult, save: Callable[[], None]) -> None:
        """Look at a result after each step.

        Args:
            best: that is followed.
            save: writes the final checkpoint, called in all processes.
        """
        self.best = best
        self._save = save
        #: Whether the training has ended, a resumed one before it begins.
        self.has_ended = False

    def state_dict(self) -> dict[str, Any]:
        """Whether the training has ended."""
        return {"has_ended": self.has_ended}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore it."""
        self.has_ended = state_dict["has_ended"]

    def after_step(self) -> None:
        """End the training when patience is at its end.

        Raises:
            NoImprovement: it is.
        """
        if not self.best.is_exhausted:
            return
        if not self.has_ended:
            self.has_ended = True
            self._save()
        screen.info(
            "no improvement for %d evaluations: stopping at %d",
            *(self.best.patience, self.trainer.iter + 1),
        )
        raise NoImprovement
