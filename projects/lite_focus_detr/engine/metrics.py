"""Metrics of a training that an interruption leaves no trace in."""

from __future__ import annotations

import json
import logging
import os
from collections import defaultdict
from pathlib import Path
from typing import Any

from detectron2.engine import HookBase
from detectron2.utils.events import EventStorage, EventWriter, get_event_storage

from .checkpoint_io import write_atomically

logger = logging.getLogger(__name__)

#: Iterations whose median is written, that of detectron2's writers.
WINDOW = 20


class MetricError(RuntimeError):
    """The configuration names a metric that the evaluation does not give."""


class MetricsFile(EventWriter):
    """Appends the scalars of an iteration to a file as one line of JSON, as ``JSONWriter`` does.

    Differs in that a resumed training can take back the lines of iterations that it repeats, and
    in that a full disk does not end a training: the lines wait until there is space again.
    """

    def __init__(self, path: str) -> None:
        """Append to a file.

        Args:
            path: file of lines of JSON, made when there is something to write.
        """
        self.path = path
        #: Latest iteration that has been written.
        self.written = -1
        self._pending = ""

    def write(self) -> None:
        """Append what is newer than the last line; smoothed scalars are medians."""
        rows: dict[int, dict[str, float]] = defaultdict(dict)
        scalars = get_event_storage().latest_with_smoothing_hint(WINDOW)
        for name, (value, iteration) in scalars.items():
            if iteration > self.written:
                rows[iteration][name] = value
        self.written = max([self.written, *rows])
        for iteration, row in rows.items():
            self._pending += json.dumps({**row, "iteration": iteration}, sort_keys=True) + "\n"
        if not self._pending:
            return
        try:
            self._append(self._pending.encode())
        except OSError as error:
            logger.warning("Cannot write %s (%s): its lines are kept for later", self.path, error)
        else:
            self._pending = ""

    def _append(self, content: bytes) -> None:
        """Append all or nothing."""
        with open(self.path, "ab", buffering=0) as file:
            size = file.seek(0, os.SEEK_END)
            try:
                if file.write(content) != len(content):
                    raise OSError("the disk is full")
                os.fsync(file.fileno())
            except OSError:
                os.ftruncate(file.fileno(), size)
                raise

    def take_back(self, written: int, last_iteration: int) -> dict[str, float]:
        """Continue as if nothing had been written after an iteration.

        Args:
            written: the latest iteration whose lines stay.
            last_iteration: the iteration that a checkpoint was written in.

        Returns:
            what the lines that are taken back say about ``last_iteration``.
        """
        self.written = written
        if not os.path.exists(self.path):
            return {}
        kept, taken_back = [], {}
        with open(self.path, encoding="utf-8", errors="replace") as file:
            lines = file.readlines()
        for line in lines:
            row = _parse(line)
            if row is None or row["iteration"] > written:
                if row is not None and row.pop("iteration") == last_iteration:
                    taken_back.update(row)
            else:
                kept.append(line)
        if kept != lines:
            write_atomically(self.path, lambda file: file.write("".join(kept).encode()))
        return taken_back


def read_metrics(path: str | Path) -> list[dict[str, Any]]:
    """The rows of a metrics file, each with its ``iteration``; none where there is no file."""
    if not os.path.isfile(path):
        return []
    with open(path, encoding="utf-8", errors="replace") as file:
        return [row for line in file if (row := _parse(line)) is not None]


def _parse(line: str) -> dict[str, Any] | None:
    """A whole line of the file; a kill may have left a part of one."""
    try:
        row = json.loads(line)
    except ValueError:
        return None
    return row if isinstance(row, dict) and isinstance(row.get("iteration"), int) else None


class MetricHistory(HookBase):
    """Keeps in checkpoints what the medians of the next iterations are taken of."""

    def __init__(self, file: MetricsFile | None = None) -> None:
        """Follow the storage of the trainer.

        Args:
            file: the metrics file, on the process that writes it.
        """
        self.file = file
        #: Whether the evaluation of the last iteration was found in the file.
        self.found_evaluation = False
        self._restored: dict[str, Any] | None = None

    def state_dict(self) -> dict[str, Any]:
        """Values of each scalar in the last iterations, or the last of all."""
        scalars: dict[str, Any] = {}
        written = self.file.written if self.file else -1
        storage: EventStorage | None = getattr(self.trainer, "storage", None)
        if storage is None:  # nothing has been trained
            return {"scalars": scalars, "written": written}
        for name, history in storage.histories().items():
            values = history.values()
            recent = [pair for pair in values[-WINDOW:] if pair[1] > storage.iter - WINDOW]
            scalars[name] = {
                "smoothed": storage.smoothing_hints()[name],
                "values": [[float(value), int(i)] for value, i in recent or values[-1:]],
            }
        return {"scalars": scalars, "written": written}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore them at the beginning of the training."""
        self._restored = state_dict

    def before_train(self) -> None:
        """Fill the storage, and take back lines of iterations that will be repeated."""
        if self._restored is None:
            return
        storage = self.trainer.storage
        scalars = self._restored["scalars"]
        values = [
            (iteration, name, value, scalar["smoothed"])
            for name, scalar in scalars.items()
            for value, iteration in scalar["values"]
        ]
        for iteration, name, value, smoothed in sorted(values, key=lambda item: item[0]):
            storage.put_scalar(name, value, smoothing_hint=smoothed, cur_iter=iteration)
        if self.file is not None:
            self._recover_evaluation(storage, self.file, self._restored["written"])

    def _recover_evaluation(self, storage: EventStorage, file: MetricsFile, written: int) -> None:
        """Look whether the evaluation ended, which comes after the checkpoint of its iteration."""
        last = self.trainer.start_iter - 1
        latest = storage.latest()
        for name, value in file.take_back(written, last).items():
            if "/" in name and latest.get(name, (0, -1))[1] != last:
                storage.put_scalar(name, value, smoothing_hint=False, cur_iter=last)
                self.found_evaluation = True
