"""One training at a time in an output folder."""

from __future__ import annotations

import atexit
import json
import os
import socket
import tempfile
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from .process_info import process_start

#: Name of the file; a folder with it belongs to a training.
LOCK_NAME = ".training.lock"

_HEARTBEAT_SECONDS = 15.0
_STALE_SECONDS = 60.0

_held: dict[str, OutputLock] = {}


def lock_output(folder: str) -> bool:
    """Take a folder for this process, until :func:`release_output` or its end.

    Returns:
        whether the lock was that of an earlier start of this very run of torchrun.

    Raises:
        ValueError: another training is running in the folder.
        OSError: the folder cannot be written.
    """
    release_output(folder)
    lock = OutputLock(folder)
    restarted = lock.acquire()
    _held[os.path.realpath(folder)] = lock
    atexit.register(release_output, folder)
    return restarted


def release_output(folder: str) -> None:
    """Give a folder back, if this process has it."""
    lock = _held.pop(os.path.realpath(folder), None)
    if lock is not None:
        lock.release()


def keep_output_for_restart(folder: str) -> None:
    """Leave the lock to the next start of this run, if torchrun has started it."""
    if os.environ.get("TORCHELASTIC_RUN_ID", "none") not in ("", "none"):
        _held.pop(os.path.realpath(folder), None)


class OutputLock:
    """Held from ``acquire`` to ``release`` or to the end of the process, however that comes.

    A lock that a process has left behind is recognised: on the same machine by the id and the
    start of its process, on another machine by the time of the file, which its holder renews every
    15 seconds.
    """

    def __init__(self, folder: str) -> None:
        """Describe the lock of a folder.

        Args:
            folder: must exist.
        """
        self.path = os.path.join(folder, LOCK_NAME)
        self.folder = folder
        self._content = json.dumps(
            {
                "host": socket.gethostname(),
                "process": os.getpid(),
                "started": process_start(os.getpid()),
                "run": os.environ.get("TORCHELASTIC_RUN_ID", ""),
                "since": time.strftime("%Y-%m-%d %H:%M:%S"),
            }
        )
        self._released = threading.Event()

    def acquire(self) -> bool:
        """Take the lock, also from a holder that is gone.

        Returns:
            whether that was an earlier start of this very run of torchrun.

        Raises:
            ValueError: another training is running in the folder.
            OSError: the folder cannot be written.
        """
        restarted = False
        for _ in range(3):
            if self._create():
                threading.Thread(target=self._renew, name="output lock", daemon=True).start()
                return restarted
            holder = _holder(self.path)
            restarted = holder is not None and self._is_this_run(holder)
            if holder is not None and self._is_alive(holder):
                raise ValueError(
                    f"OUTPUT_DIR {self.folder} is in use by a training since {holder.get('since')} "
                    f"(process {holder.get('process')} on {holder.get('host')}): wait for it, stop "
                    "it, or set another OUTPUT_DIR"
                )
            self._remove_stale(holder)
        raise ValueError(f"OUTPUT_DIR {self.folder} has just been taken by another training")

    def release(self) -> None:
        """Give the lock back, if this process still has it."""
        self._released.set()
        try:
            if Path(self.path).read_text(encoding="utf-8") == self._content:
                os.remove(self.path)
        except OSError:
            pass  # removed with its folder

    def _create(self) -> bool:
        """Create the file with its content in one step, on network file systems as well."""
        descriptor, temporary = tempfile.mkstemp(prefix=f"{LOCK_NAME}.", dir=self.folder)
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                file.write(self._content)
            os.link(temporary, self.path)
        except FileExistsError:
            return False
        except OSError:  # a file system without hard links
            return self._create_exclusively()
        finally:
            os.remove(temporary)
        return True

    def _create_exclusively(self) -> bool:
        try:
            with open(self.path, "x", encoding="utf-8") as file:
                file.write(self._content)
        except FileExistsError:
            return False
        return True

    def _is_alive(self, holder: dict[str, Any]) -> bool:
        if self._is_this_run(holder):
            return False  # torchrun has ended its earlier processes
        if holder.get("host") == socket.gethostname():
            process = holder.get("process")
            return isinstance(process, int) and process_start(process) == holder.get("started")
        return self._age() <= _STALE_SECONDS

    @staticmethod
    def _is_this_run(holder: dict[str, Any]) -> bool:
        run = os.environ.get("TORCHELASTIC_RUN_ID", "none")
        return run not in ("", "none") and holder.get("run") == run

    def _age(self) -> float:
        """Seconds since the holder has renewed the file, by the clock of its file system."""
        with tempfile.NamedTemporaryFile(prefix=f"{LOCK_NAME}.", dir=self.folder) as now:
            try:
                return os.fstat(now.fileno()).st_mtime - os.stat(self.path).st_mtime
            except FileNotFoundError:
                return _STALE_SECONDS + 1

    def _remove_stale(self, holder: dict[str, Any] | None) -> None:
        """Remove the file unless it has become another one since it was read."""
        aside = f"{self.path}.{os.getpid()}"
        try:
            os.rename(self.path, aside)
        except FileNotFoundError:
            return
        found = _holder(aside)
        if found != holder and found is not None:
            os.link(aside, self.path)  # another process was faster
        os.remove(aside)

    def _renew(self) -> None:
        while not self._released.wait(_HEARTBEAT_SECONDS):
            with suppress(OSError):  # the next time
                os.utime(self.path)


def _holder(path: str) -> dict[str, Any] | None:
    """What a lock says; None if it is gone or damaged."""
    try:
        holder = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return holder if isinstance(holder, dict) else None
