"""Logs that a full disk does not end a training for."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterable

from detectron2.utils.events import TensorboardXWriter, get_event_storage

logger = logging.getLogger(__name__)


class TensorboardFile(TensorboardXWriter):
    """A ``TensorboardXWriter`` that gives up where it cannot write.

    TensorBoard's own writer works in a thread, which ends with the first error: nothing that comes
    later could be written. ``metrics.json`` has the same values.
    """

    def __init__(self, log_dir: str) -> None:
        """Write to a folder.

        Args:
            log_dir: folder of the file, which is made when there is something to write.
        """
        super().__init__(log_dir)
        self._given_up = False

    def write(self) -> None:
        """Write all new scalars, pictures and histograms."""
        if self._given_up:
            get_event_storage().clear_images()
            return
        try:
            super().write()
        except OSError as error:
            self._give_up(error)

    def close(self) -> None:
        """Write what is left."""
        if self._given_up:
            return
        try:
            super().close()
        except OSError as error:
            self._give_up(error)

    def _give_up(self, error: OSError) -> None:
        self._given_up = True
        logger.warning(
            "Cannot write TensorBoard's file (%s): training goes on without it, metrics.json has "
            "its values",
            error,
        )


def keep_logging(names: Iterable[str]) -> None:
    """Say once that a log cannot be written, where logging itself prints a traceback per line.

    Args:
        names: of the loggers whose handlers write to files.
    """
    reported: set[str] = set()

    def report(record: logging.LogRecord) -> None:
        """Called by a handler while it deals with its error."""
        error = sys.exc_info()[1]
        if isinstance(error, OSError):
            line = f"warning: cannot write the log ({error}): the run goes on without it\n"
        else:
            line = f"warning: cannot log {record.msg!r}: {error!r}\n"
        if line not in reported:
            reported.add(line)
            sys.stderr.write(line)

    for handler in {handler for name in names for handler in logging.getLogger(name).handlers}:
        handler.handleError = report  # type: ignore[method-assign]
