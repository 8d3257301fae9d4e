"""The progress of a training in one line per period, and a bar on a terminal."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Iterator, Mapping
from typing import Any

from detectron2.engine import HookBase
from tqdm import tqdm

from ..screen import is_verbose, screen
from .best_result import BestResult

#: Longest line, in columns.
WIDTH = 100
#: Iterations between two lines, and before the first.
PERIOD = 20
FIRST = 5

# Names on the screen of the losses of the last decoder layer.
_LOSSES = {"class": "loss_class", "box": "loss_bbox", "giou": "loss_giou"}


class ProgressLines(HookBase):
    """Shows a line every ``PERIOD`` iterations, the first after ``FIRST``; to be a late hook."""

    def __init__(
        self,
        *,
        images_per_epoch: int,
        images_per_iteration: int,
        evaluation_period: int,
        best: BestResult,
    ) -> None:
        """Show nothing yet.

        Args:
            images_per_epoch: of the training set.
            images_per_iteration: of an optimiser step, in all processes.
            evaluation_period: iterations between two evaluations; 0 evaluates at the end only.
            best: the best evaluation.
        """
        self.iterations_per_epoch = images_per_epoch / images_per_iteration
        self.evaluation_period = evaluation_period
        #: What an evaluation has lasted, in seconds.
        self.evaluation_seconds = 0.0
        self.best = best
        self.bar: tqdm | None = None

    def before_train(self) -> None:
        """Show the bar, where somebody can see it."""
        self.bar = tqdm(
            total=self.trainer.max_iter,
            initial=self.trainer.start_iter,
            unit="it",
            leave=False,
            disable=not has_viewer(),
        )

    def after_step(self) -> None:
        """Show a line after some iterations and after the last."""
        done = self.trainer.iter + 1
        if self.bar is not None:
            self.bar.update()
        since_start = done - self.trainer.start_iter
        if since_start == FIRST:
            self._show_end(done)
        if since_start == FIRST or done % PERIOD == 0 or done == self.trainer.max_iter:
            screen.info("%s", self._line(done))

    def after_train(self) -> None:
        """Remove the bar."""
        if self.bar is not None:
            self.bar.close()

    def _show_end(self, done: int) -> None:
        remaining = self.seconds_left(done)
        if remaining:
            end = time.strftime("%H:%M", time.localtime(time.time() + remaining))
            unknown = "" if self.evaluation_seconds else ", without evaluations"
            screen.info("Expected end: %s, in %s%s", end, format_seconds(remaining), unknown)

    def _line(self, done: int) -> str:
        storage = self.trainer.storage
        smoothed = {
            name: history.median(min(PERIOD, len(history.values())))
            for name, history in storage.histories().items()
            if "loss" in name or name == "lr"
        }
        return format_line(
            smoothed,
            epoch=(math.ceil(done / self.iterations_per_epoch), self._epochs()),
            iterations=done,
            seconds=storage.history("time").avg(PERIOD) if "time" in storage.histories() else None,
            remaining=self.seconds_left(done),
            best=self._best(),
        )

    def _epochs(self) -> int:
        return math.ceil(self.trainer.max_iter / self.iterations_per_epoch)

    def _best(self) -> tuple[float, int] | None:
        if not self.best.iterations:
            return None
        return self.best.value, math.ceil(self.best.iterations / self.iterations_per_epoch)

    def seconds_left(self, done: int) -> float | None:
        """Seconds until the end, evaluations included; None before the first iteration."""
        histories = self.trainer.storage.histories()
        if "time" not in histories:
            return None
        left = self.trainer.max_iter - done
        evaluations = 1 if left else 0
        if self.evaluation_period:
            evaluations += max(0, (self.trainer.max_iter - 1) // self.evaluation_period)
            evaluations -= done // self.evaluation_period
        steps = left * float(histories["time"].avg(PERIOD))
        return steps + max(0, evaluations) * self.evaluation_seconds


class LoaderWithBar:
    """A data loader that shows on a terminal how far it is."""

    def __init__(self, loader: Any) -> None:
        """Take a loader.

        Args:
            loader: whose attributes this has as well.
        """
        self._loader = loader

    def __len__(self) -> int:
        return len(self._loader)

    def __iter__(self) -> Iterator[Any]:
        yield from tqdm(self._loader, "evaluating", leave=False, disable=not has_viewer())

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)


def has_viewer() -> bool:
    """Whether somebody can see a bar, and no line of detectron2 would tear it apart."""
    return sys.stderr.isatty() and not is_verbose()


def format_line(
    values: Mapping[str, float],
    *,
    epoch: tuple[int, int],
    iterations: int,
    seconds: float | None,
    remaining: float | None,
    best: tuple[float, int] | None,
) -> str:
    """A line of at most ``WIDTH`` columns about the state of a training.

    Args:
        values: smoothed scalars by their names in the storage: losses and ``lr``.
        epoch: the present one, from 1, and how many there are.
        iterations: that have been made.
        seconds: of an iteration.
        remaining: seconds until the end.
        best: best AP in percent, and its epoch.
    """
    parts = {
        "place": f"epoch {epoch[0]}/{epoch[1]}  it {iterations}",
        **_loss_parts(values),
        "rate": f"lr {_exponent(values['lr'])}" if "lr" in values else "",
        "speed": "" if seconds is None else f"{seconds:.2g} s/it",
        "end": "" if remaining is None else f"ETA {format_seconds(remaining)}",
        "best": "" if best is None else f"best AP {best[0]:.1f} @{best[1]}",
    }
    for left_out in ("", "rate", "details"):  # what matters least is left out first
        parts[left_out] = ""
        line = "  ".join(filter(None, parts.values())).replace("  (", " (")
        if len(line) > WIDTH:
            line = line.replace("  ", " ")
        if len(line) <= WIDTH:
            break
    return line


def _loss_parts(values: Mapping[str, float]) -> dict[str, str]:
    names = {short: name for short, name in _LOSSES.items() if name in values}
    details = " ".join(f"{short} {_number(values[name])}" for short, name in names.items())
    total = f"loss {_number(values['total_loss'])}" if "total_loss" in values else ""
    return {"loss": total, "details": f"({details})" if details else ""}


def _exponent(value: float) -> str:
    """1e-3, 1.4e-4."""
    digits, _, exponent = f"{value:.1e}".partition("e")
    return f"{digits.removesuffix('.0')}e{int(exponent)}"


def format_seconds(seconds: float) -> str:
    """Minutes and seconds as 11:30, hours as 2:11:30, days as 1d 2h."""
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    days, hour = divmod(hours, 24)
    if days:
        return f"{days}d {hour}h"
    return f"{hour}:{minute:02d}:{second:02d}" if hour else f"{minute}:{second:02d}"


def _number(value: float) -> str:
    """14.2, 1.2, .35, 1.4e5."""
    if value >= 1e4 or 0 < value < 1e-3:
        return _exponent(value)
    text = f"{value:.3g}" if value >= 10 else f"{value:.2g}"
    return text.removeprefix("0") if 0 < value < 1 else text
