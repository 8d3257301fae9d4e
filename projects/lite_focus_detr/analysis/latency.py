"""How long a detector takes, and the largest budget with which it is fast enough."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial

import torch

from ..modeling import DetectionTransformer

#: Parts of a detector that take most of its time; their modules have these names.
PARTS = ("backbone", "encoder", "decoder")
#: Keep ratios to choose from.
KEEP_RATIOS = (1.0, 0.7, 0.5, 0.4, 0.3, 0.2, 0.1, 0.05)


def median_seconds(run: Callable[[], object], rounds: int = 3) -> float:
    """Median time of some runs, after one that does not count."""
    run()
    seconds = []
    for _ in range(rounds):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


class PartTimer:
    """Measures how long parts of a detector take, between ``with`` and its end.

    Attributes:
        seconds: by part, of all its calls together.
    """

    def __init__(self, model: DetectionTransformer, parts: Sequence[str] = PARTS) -> None:
        """
        Args:
            model: to watch.
            parts: names of its children; a part that was not called takes no time.
        """
        self.model = model
        self.seconds = dict.fromkeys(parts, 0.0)
        self._handles = ExitStack()

    def __enter__(self) -> PartTimer:
        for part in self.seconds:
            module = getattr(self.model, part)
            before = module.register_forward_pre_hook(partial(self._add, part, -1.0))
            self._handles.callback(before.remove)
            after = module.register_forward_hook(partial(self._add, part, 1.0))
            self._handles.callback(after.remove)
        return self

    def __exit__(self, *_: object) -> None:
        self._handles.close()

    def _add(self, part: str, sign: float, *_: object) -> None:
        if self.model.device.type == "cuda":
            torch.cuda.synchronize(self.model.device)
        self.seconds[part] += sign * time.perf_counter()


def part_seconds(
    model: DetectionTransformer, run: Callable[[], object], rounds: int = 3
) -> dict[str, float]:
    """Median time of the parts of a detector over some runs, after one that does not count.

    Args:
        model: whose ``PARTS`` are timed, between the start and the end of their forward pass.
        run: detects once; on a GPU it waits for the parts.
        rounds: runs that count, at least 1.

    Returns:
        seconds by part, and of the whole run as ``total``.
    """
    runs = []
    for _ in range(rounds + 1):
        start = time.perf_counter()
        with PartTimer(model) as timer:
            run()
        runs.append({**timer.seconds, "total": time.perf_counter() - start})
    return {part: statistics.median(x[part] for x in runs[1:]) for part in runs[0]}


def fit_budget(
    model: DetectionTransformer,
    run: Callable[[], object],
    limit: float,
    keep_ratios: Sequence[float] = KEEP_RATIOS,
) -> dict[float, float]:
    """Give a model the largest budget with which ``run`` keeps within a time.

    Args:
        model: whose encoder selects tokens; the budget is left set, the smallest if none fits.
        run: detects once, on whatever is typical.
        limit: seconds.
        keep_ratios: to try, in this order: the largest first.

    Returns:
        the seconds of every ratio that was tried; the last is the one that was set.

    Raises:
        ValueError: the encoder of the model updates all tokens.
    """
    measured: dict[float, float] = {}
    for keep_ratio in keep_ratios:
        model.set_budget(keep_ratio)
        measured[keep_ratio] = median_seconds(run)
        if measured[keep_ratio] <= limit:
            break
    return measured
