"""The screen of a run: a few lines of its own and all warnings; ``log.txt`` has everything."""

from __future__ import annotations

import io
import logging
import os
import re
import sys
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, redirect_stdout

from tqdm import tqdm

#: Environment variable: 1 shows all lines of detectron2.
VERBOSE = "LITE_FOCUS_DETR_VERBOSE"

#: For lines that a user is to see. They are in the log as well.
screen = logging.getLogger("lite_focus_detr.screen")

# The lock of its own choice is a semaphore, which processes that leave at once would leave behind.
tqdm.set_lock(threading.RLock())

_COLOUR = re.compile(r"\x1b\[[0-9;]*m")


def is_verbose() -> bool:
    """Whether the screen shows everything."""
    return os.environ.get(VERBOSE, "0") not in ("", "0")


def set_up_screen(names: Iterable[str]) -> None:
    """Leave a few lines of what loggers show on the screen, and no colours in their files.

    Args:
        names: of loggers that detectron2's ``setup_logger`` has set up.
    """
    for name in names:
        logger = logging.getLogger(name)
        shown = [x for x in logger.handlers if getattr(x, "stream", None) is sys.stdout]
        for handler in set(logger.handlers) - set(shown):
            handler.setFormatter(_WithoutColours(handler.formatter))
        # A process with several runs, which set it up each, shows a line once.
        for handler in shown[1:] if is_verbose() else shown:
            logger.removeHandler(handler)
        if shown and not is_verbose():
            logger.addHandler(ScreenHandler())


class ScreenHandler(logging.StreamHandler):  # type: ignore[type-arg]
    """Shows lines of ``screen`` and warnings, above a progress bar where there is one."""

    def __init__(self) -> None:
        super().__init__(sys.stdout)
        self.setFormatter(_WarningsNamed())
        self.addFilter(lambda record: record.name == screen.name or record.levelno > logging.INFO)

    def emit(self, record: logging.LogRecord) -> None:
        """Show a record."""
        with tqdm.external_write_mode(file=self.stream):
            super().emit(record)


class _WarningsNamed(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        text = super().format(record)
        return text if record.levelno <= logging.INFO else f"{record.levelname}: {text}"


class _WithoutColours(logging.Formatter):
    """Formats as another one, without the codes that colour text on a terminal."""

    def __init__(self, formatter: logging.Formatter | None) -> None:
        super().__init__()
        self.formatter = formatter or logging.Formatter()

    def format(self, record: logging.LogRecord) -> str:
        return _COLOUR.sub("", self.formatter.format(record))


@contextmanager
def prints_in_log(logger: logging.Logger) -> Iterator[None]:
    """Send what libraries print to a log instead of the screen.

    Args:
        logger: that gets the lines, at the level of information.
    """
    if is_verbose():
        yield
        return
    with redirect_stdout(_Lines(logger)):
        yield


class _Lines(io.TextIOBase):
    def __init__(self, logger: logging.Logger) -> None:
        self.logger = logger
        self.pending = ""

    def write(self, text: str) -> int:
        *lines, self.pending = (self.pending + text).split("\n")
        for line in lines:
            if line.strip():
                self.logger.info("%s", line)
        return len(text)
