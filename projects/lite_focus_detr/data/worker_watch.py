"""Says which image a process that loads data was reading when it died."""

from __future__ import annotations

import mmap
import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch.utils.data import get_worker_info

from .errors import DataError

_LENGTH, _SLOTS = 1024, 256
_TRIES, _PAUSE = 20, 0.05  # seconds
# Shared with the workers, which are forked from this process. Where they are started anew each has
# one of its own, and the image is not known.
_NOTES = mmap.mmap(-1, _LENGTH * _SLOTS)


def note_image(path: str) -> None:
    """Remember in a worker that it begins to read this image."""
    if get_worker_info() is not None:
        process = os.getpid()
        note = f"{process} {path}".encode(errors="replace")[:_LENGTH].ljust(_LENGTH, b"\0")
        start = process % _SLOTS * _LENGTH
        _NOTES[start : start + _LENGTH] = note


@contextmanager
def dead_workers_named() -> Iterator[None]:
    """Around what takes data from a loader: a worker that dies is a :class:`DataError`."""
    try:
        with _lost_connections_explained():
            yield
    except RuntimeError as error:
        death = re.search(r"DataLoader worker \(pid(?:\(s\))?:? ([\d, ]+)\) (.*)", str(error))
        if death is None:
            raise
        pids = re.findall(r"\d+", death[1])
        images = [image for process in pids if (image := _noted_image(int(process)))]
        reading = f" while it read {', '.join(images)}" if images else ""
        raise DataError(
            f"a process that loads data died{reading} (process {', '.join(pids)} "
            f"{death[2].strip().rstrip('.')}); if the memory is full, lower DATALOADER.NUM_WORKERS "
            "or enlarge /dev/shm, else look at the image"
        ) from error


@contextmanager
def _lost_connections_explained() -> Iterator[None]:
    """A worker that dies before its last batch was fetched ends the connection to it: PyTorch's
    ``RuntimeError`` about its death takes the place of that error."""
    try:
        yield
    except (ConnectionError, EOFError):
        for _ in range(_TRIES):
            torch._C._error_if_any_worker_fails()
            time.sleep(_PAUSE)  # its files are closed a moment before it is known to be dead
        raise


def _noted_image(process: int) -> str:
    start = process % _SLOTS * _LENGTH
    note = _NOTES[start : start + _LENGTH].rstrip(b"\0").decode(errors="replace")
    owner, _, path = note.partition(" ")
    return path if owner == str(process) else ""
