"""Training hooks that detectron2 does not have."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from detectron2.engine import HookBase, hooks
from detectron2.utils import comm
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from ..data.seeding import seed_generators
from ..modeling import DetectionTransformer
from . import signals
from .peers import collective_timeout

# Told apart from the other uses of one seed.
_STEP = 4


class RequireFinite(HookBase):
    """Stops all processes before weights or optimiser states are saved that are not finite."""

    def __init__(self, *, period: int, check: Callable[[], None]) -> None:
        """Check when :class:`PeriodicCheckpointer` saves.

        Args:
            period: iterations between two checkpoints.
            check: raises an error in all processes if something is not finite in one of them.
        """
        self.period = period
        self.check = check

    def after_step(self) -> None:
        """Check after every ``period`` steps, and after the last."""
        number = self.trainer.iter + 1
        if number % self.period == 0 or number >= self.trainer.max_iter:
            self.check()


class EMAHook(HookBase):
    """Keeps an exponential moving average of a model's weights.

    After step t the average is ``decay * average + (1 - decay) * weights``; it starts from the
    weights before the first step. Buffers are copied.
    """

    def __init__(self, *, model: nn.Module, decay: float) -> None:
        """Make the average of a model.

        Args:
            model: the model that is trained, without a wrapper for several processes.
            decay: weight of the past, in [0, 1].
        """
        self.model = model
        update = get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]
        self.average = AveragedModel(model, multi_avg_fn=update)
        self.average.requires_grad_(False)

    def before_train(self) -> None:
        """Start from the loaded weights, unless an average was resumed."""
        if self.average.n_averaged == 0:
            self.average.update_parameters(self.model)

    def after_step(self) -> None:
        """Move the average towards the weights of this step."""
        self.average.update_parameters(self.model)


class SeedSteps(HookBase):
    """Makes the randomness of a step, dropout and denoising, a function of its number.

    A resumed training then needs no state of generators, and an evaluation between two steps
    changes nothing. Each process has its own numbers.
    """

    def __init__(self, seed: Callable[[], int]) -> None:
        """Seed all steps.

        Args:
            seed: returns the seed of the training, at least 0; known when the training starts.
        """
        self.seed = seed

    def before_step(self) -> None:
        """Seed all generators."""
        seed_generators(self.seed(), _STEP, self.trainer.iter, comm.get_rank())


class Evaluation(hooks.EvalHook):
    """An ``EvalHook`` that knows when it has last been called.

    A checkpoint is written before the evaluation of its iteration, so that a failure there loses
    nothing; a resumed training makes up for an evaluation that did not end.
    """

    def __init__(self, period: int, evaluate: Callable[[], dict[str, Any]]) -> None:
        """Evaluate regularly, and at the end.

        Args:
            period: in iterations; 0 evaluates at the end only.
            evaluate: returns the metrics.
        """

        def evaluate_and_note() -> dict[str, Any]:
            """Evaluate, and note the iteration."""
            results = evaluate()
            self.last = self.trainer.iter
            return results

        super().__init__(period, evaluate_and_note)
        self.period = period
        #: The last iteration with an evaluation, -1 before the first.
        self.last = -1

    def state_dict(self) -> dict[str, Any]:
        """When the last evaluation was."""
        return {"last": self.last}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore it."""
        self.last = state_dict["last"]

    def is_due(self, iteration: int) -> bool:
        """Whether an iteration that has been resumed after lacks its evaluation."""
        number = iteration + 1
        regular = self.period > 0 and number % self.period == 0
        return regular and number < self.trainer.max_iter and self.last < iteration


class BudgetHook(HookBase):
    """Trains an encoder that selects tokens for every budget between two keep ratios.

    The sandwich rule of slimmable networks, spread over iterations: the largest, the smallest, and
    one drawn between them. What is drawn depends on the iteration alone, so that all processes and
    a resumed training draw the same. Evaluations between the steps have the configured budget.
    """

    def __init__(self, *, model: DetectionTransformer, smallest: float, largest: float) -> None:
        """Check that the model has a budget.

        Args:
            model: that is trained, without a wrapper for several processes.
            smallest: keep ratio, in (0, 1].
            largest: keep ratio, at least that, at most 1.

        Raises:
            ValueError: the encoder of the model updates all tokens.
        """
        model.set_budget(None)
        self.model = model
        self.smallest = smallest
        self.largest = largest

    def keep_ratio(self, iteration: int) -> float:
        """Of an iteration."""
        between = random.Random(iteration).uniform(self.smallest, self.largest)
        return (self.largest, self.smallest, between)[iteration % 3]

    def before_step(self) -> None:
        """Set the budget of this iteration."""
        self.model.set_budget(self.keep_ratio(self.trainer.iter))

    def after_step(self) -> None:
        """Return to the configured one."""
        self.model.set_budget(None)


class StopOnSignal(HookBase):
    """Ends the training after an iteration in which any process was asked to stop.

    To be the last hook, so that nothing of the iteration is left to do.
    """

    def before_train(self) -> None:
        """Set up the question to all processes, on the CPU so that no GPU waits for it."""
        self.group: dist.ProcessGroup | None = None
        if comm.get_world_size() > 1 and dist.get_backend() != "gloo":
            self.group = dist.new_group(backend="gloo", timeout=collective_timeout())

    def after_step(self) -> None:
        """Ask all processes.

        Raises:
            Interrupted: in all of them, if one was asked to stop.
        """
        number = signals.requested()
        if comm.get_world_size() > 1:
            numbers = torch.tensor([number])
            dist.all_reduce(numbers, op=dist.ReduceOp.MAX, group=self.group)
            number = int(numbers)
        if number:
            raise signals.Interrupted(number)
