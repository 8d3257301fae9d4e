"""Signals that end a training: the first one orderly, a second one at once."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

#: Ctrl-C, what schedulers send before they kill, and what they can be told to send earlier.
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)

# One request may reach a process on several ways: from the terminal or the scheduler and from the
# process that has started it.
_SAME_REQUEST_SECONDS = 0.3
_PR_SET_PDEATHSIG = 1


class Interrupted(SystemExit):
    """A signal ends the process with the exit status 128 + its number.

    Args:
        number: of the signal.
        reported: the user has been told.
    """

    def __init__(self, number: int, *, reported: bool = False) -> None:
        super().__init__(128 + number)
        self.reported = reported
        self.number = number
        self.signal_name = signal.Signals(number).name


class _State:
    """What the handler knows; there is one of it, as of the handlers of a process."""

    handled = False
    deferred = False
    number = 0
    time = 0.0
    fork_registered = False
    parent = 0


@contextmanager
def handled() -> Iterator[None]:
    """Turn the signals into :class:`Interrupted`, raised at once unless :func:`deferred`.

    A second signal kills the children of this process and ends it without delay. Processes that it
    forks, such as loader workers, take no notice of the signals and end when it ends. Does nothing
    outside of the main thread, and when it is in force already.
    """
    if _State.handled or threading.current_thread() is not threading.main_thread():
        yield
        return
    if not _State.fork_registered:
        os.register_at_fork(before=_before_fork, after_in_child=_in_forked_child)
        _State.fork_registered = True
    before = {number: signal.signal(number, _handle) for number in SIGNALS}
    _State.handled, _State.number = True, 0
    try:
        yield
    finally:
        _State.handled = False
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def deferred() -> Iterator[None]:
    """Only note a first signal: :func:`requested` tells it."""
    before, _State.deferred = _State.deferred, True
    try:
        yield
    finally:
        _State.deferred = before


@contextmanager
def immediate() -> Iterator[None]:
    """Inside of :func:`deferred`, raise after all: for what takes long and changes nothing."""
    if _State.number and _State.deferred:
        raise Interrupted(_State.number)
    before, _State.deferred = _State.deferred, False
    try:
        yield
    finally:
        _State.deferred = before


@contextmanager
def unhandled() -> Iterator[None]:
    """End at once, by the signal itself: for calls that wait outside of Python, where no handler
    runs, and that leave nothing to be saved."""
    if not _State.handled:
        yield
        return
    before = {number: signal.signal(number, signal.SIG_DFL) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def requested() -> int:
    """Number of the signal that has been noted; 0 without one."""
    return _State.number if _State.handled else 0


def _handle(number: int, frame: FrameType | None) -> None:
    now = time.monotonic()
    if _State.number:
        if now - _State.time > _SAME_REQUEST_SECONDS:
            leave(128 + number)
        return
    _State.number, _State.time = number, now
    if not _State.deferred:
        raise Interrupted(number)


def leave(status: int) -> None:
    """End this process and its children without delay.

    Args:
        status: to exit with.
    """
    kill_children()
    # The signal may have come in the middle of writing there.
    with suppress(RuntimeError, OSError, ValueError):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(status)


def kill_children() -> None:
    """Kill the processes that this one has started with ``multiprocessing``."""
    if threading.current_thread() is threading.main_thread():
        # The loader's handler would raise about workers that are killed here.
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for child in multiprocessing.active_children():
        child.kill()


def die_with(parent: int) -> None:
    """Have the system kill this process when the thread that has started it ends (Linux).

    Args:
        parent: process id of the parent, which may be gone already.
    """
    if not sys.platform.startswith("linux"):
        return
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def _before_fork() -> None:
    _State.parent = os.getpid()


def _in_forked_child() -> None:
    """The terminal and schedulers signal whole groups: workers must outlive the last iteration."""
    if not _State.handled:
        return
    _State.handled = False
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    die_with(_State.parent)
