"""Errors of data that show only while it is read."""

from __future__ import annotations

import re


class DataError(RuntimeError):
    """Something in the user's data ends a run: one line with the cause, the place and the remedy.

    Commands show the line and no traceback.
    """

    def __init__(self, message: str) -> None:
        """Take the message.

        Args:
            message: one line. From a worker of a loader PyTorch gives the whole traceback, of
                which the last line is kept.
        """
        lines = re.findall(rf"^[\w.]*\b{type(self).__name__}: (.*)$", message, re.MULTILINE)
        super().__init__(lines[-1] if lines else message)


class UnreadableImage(DataError):
    """An image cannot be read, or is not the one that its data set describes."""
