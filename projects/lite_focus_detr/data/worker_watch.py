"""Says which image a process that loads data was reading when it died."""

from __future__ import annotations

import mmap
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager

from torch.utils.data import get_worker_info

from .errors import DataError

_LENGTH, _SLOTS = 1024, 256
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


def _noted_image(process: int) -> str:
    start = process % _SLOTS * _LENGTH
    note = _NOTES[start : start + _LENGTH].rstrip(b"\0").decode(errors="replace")
    owner, _, path = note.partition(" ")
    return path if owner == str(process) else ""
