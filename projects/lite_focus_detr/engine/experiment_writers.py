"""Writers that send the scalars of a training to Weights & Biases or MLflow.

Project, server and account are those of the services' own settings and environment variables, such
as ``WANDB_PROJECT`` and ``MLFLOW_TRACKING_URI``.
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
import re
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode
from detectron2.utils.events import EventWriter, get_event_storage

from .metrics import WINDOW

logger = logging.getLogger(__name__)

# Names of classes may hold any character, names of MLflow's metrics these.
_NOT_FOR_MLFLOW = re.compile(r"[^\w\-. :/]")


class ExperimentWriter(EventWriter):
    """Sends scalars as the metrics file has them; an error there does not end a training."""

    def __init__(self, library: Any, errors: type[Exception], cfg: CfgNode) -> None:
        """Prepare a run, which starts when there is something to send.

        Args:
            library: module of the service.
            errors: what it raises; the first is a warning, and the rest is not sent.
            cfg: complete configuration, which the run keeps; it has the name of ``OUTPUT_DIR``.
        """
        self.library = library
        self.cfg = cfg
        self.name = Path(cfg.OUTPUT_DIR).resolve().name
        self._errors = errors
        self._written = -1
        self._running = False
        self._given_up = False

    def start(self) -> None:
        """Start the run."""
        raise NotImplementedError

    def send(self, row: Mapping[str, float], iteration: int) -> None:
        """Send scalars by name, of one iteration."""
        raise NotImplementedError

    def finish(self) -> None:
        """End the run."""
        raise NotImplementedError

    def write(self) -> None:
        """Send what is newer than what was sent before; smoothed scalars are medians."""
        rows: dict[int, dict[str, float]] = {}
        scalars = get_event_storage().latest_with_smoothing_hint(WINDOW)
        for name, (value, iteration) in scalars.items():
            if iteration > self._written:
                rows.setdefault(iteration, {})[name] = value
        self._written = max([self._written, *rows])
        if rows and not self._running:
            self._attempt(self.start)
            self._running = True
        for iteration in sorted(rows):
            self._attempt(partial(self.send, rows[iteration], iteration))

    def close(self) -> None:
        """End the run."""
        if self._running:
            self._attempt(self.finish)

    def _attempt(self, step: Callable[[], None]) -> None:
        if self._given_up:
            return
        try:
            step()
        except (OSError, self._errors) as error:
            self._given_up = True
            service, reason = type(self).__name__, str(error).partition("\n")[0]
            logger.warning("%s sends no more (%s): metrics.json has all", service, reason)


class WandbWriter(ExperimentWriter):
    """A run of Weights & Biases."""

    def __init__(self, library: Any, cfg: CfgNode) -> None:
        """Prepare a run, see :class:`ExperimentWriter`."""
        super().__init__(library, library.Error, cfg)

    def start(self) -> None:
        """Start the run, or go on with one that was killed in the same folder."""
        options = {"name": self.name, "dir": self.cfg.OUTPUT_DIR, "resume": "auto"}
        self._run = self.library.init(config={"cfg": self.cfg.dump()}, **options)

    def send(self, row: Mapping[str, float], iteration: int) -> None:
        """See :meth:`ExperimentWriter.send`."""
        self._run.log(dict(row), step=iteration)

    def finish(self) -> None:
        """See :meth:`ExperimentWriter.finish`."""
        self._run.finish()


class MlflowWriter(ExperimentWriter):
    """A run of MLflow."""

    def __init__(self, library: Any, cfg: CfgNode) -> None:
        """Prepare a run, see :class:`ExperimentWriter`."""
        super().__init__(library, library.MlflowException, cfg)

    def start(self) -> None:
        """Start the run."""
        self.library.start_run(run_name=self.name)
        self.library.log_text(self.cfg.dump(), "config.yaml")

    def send(self, row: Mapping[str, float], iteration: int) -> None:
        """See :meth:`ExperimentWriter.send`; characters that MLflow refuses become ``_``."""
        renamed = {_NOT_FOR_MLFLOW.sub("_", name): value for name, value in row.items()}
        self.library.log_metrics(renamed, step=iteration)

    def finish(self) -> None:
        """See :meth:`ExperimentWriter.finish`."""
        self.library.end_run()


_WRITERS: dict[str, Callable[[Any, CfgNode], ExperimentWriter]] = {
    "wandb": WandbWriter,
    "mlflow": MlflowWriter,
}


def build_experiment_writers(cfg: CfgNode) -> list[ExperimentWriter]:
    """The writers to all services of ``LOGGERS``, which are checked by :func:`check_loggers`."""
    return [_WRITERS[name](importlib.import_module(name), cfg) for name in cfg.LOGGERS]


def check_loggers(names: Iterable[str]) -> None:
    """Check that services are known, and that their libraries are installed.

    Raises:
        ValueError: names the first that is not.
    """
    for name in names:
        if name not in _WRITERS:
            raise ValueError(f"LOGGERS has {name!r}; there are {' and '.join(_WRITERS)}")
        if importlib.util.find_spec(name) is None:
            raise ValueError(f"LOGGERS has {name!r}, which is not installed: pip install {name}")
