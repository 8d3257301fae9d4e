"""Processes of a training watch each other, so that none waits for one that is gone."""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any

import torch.distributed as dist
from detectron2.utils import comm
from torch.distributed import distributed_c10d

from .peer_judge import PeerJudge, PeerState
from .signals import leave

logger = logging.getLogger(__name__)

#: Seconds that a process may keep the others waiting.
TIMEOUT_VARIABLE = "LITE_FOCUS_DETR_TIMEOUT"

_BEAT_SECONDS = 1.0
# How long the process that keeps the store stays for the others to read why it leaves.
_LEAVE_SECONDS = 3 * _BEAT_SECONDS
_LONGEST_PAUSE_SECONDS = 1800.0
_STORE_ERRORS = (RuntimeError, dist.DistError)


def peer_timeout() -> timedelta:
    """How long a process may keep others waiting: ``LITE_FOCUS_DETR_TIMEOUT`` seconds, or 1800.

    Raises:
        ValueError: it is no positive number.
    """
    text = os.environ.get(TIMEOUT_VARIABLE, "1800")
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise ValueError(f"{TIMEOUT_VARIABLE} is {text!r}; set a number of seconds above 0")
    return timedelta(seconds=seconds)


def collective_timeout() -> timedelta:
    """Timeout of PyTorch's collectives, which names nobody: longer than what :class:`PeerWatch`
    waits, and than an evaluation or a checkpoint of the first process."""
    return max(peer_timeout(), timedelta(seconds=_LONGEST_PAUSE_SECONDS)) + timedelta(minutes=1)


class PeerLostError(RuntimeError):
    """Another process is the cause that this one cannot go on; the message names it."""


class PeerWatch:
    """Tells the other processes what this one is doing, and ends it when one of them is missing.

    Without this, processes wait in a collective for one that was killed, has stopped or hangs,
    until a timeout that does not name it. With one process it does nothing.
    """

    # Trainings of this process, which share the store.
    _count = 0

    def __init__(self, report: Callable[[str], object]) -> None:
        """Prepare the watch, which :meth:`running` starts.

        Args:
            report: shows a line to the user, called before this process ends.
        """
        self.report = report
        self.rank, self.world_size = comm.get_rank(), comm.get_world_size()
        self._judge = PeerJudge(peer_timeout().total_seconds())
        self._state = PeerState.of_this_process()
        self._lock = threading.Lock()
        # When the question to the store began that has no answer yet.
        self._asking: float | None = None
        self._stop = threading.Event()
        self._ended = threading.Event()
        self._store: Any = None
        # What the others have last said.
        self._states: dict[int, PeerState] = {}

    @contextmanager
    def running(self) -> Iterator[None]:
        """Watch while the context lasts; all processes enter it.

        Raises:
            PeerLostError: in place of the error of a collective, where another process is missing.
        """
        if self.world_size == 1:
            yield
            return
        # A connection of its own: the process group's may be busy for long.
        default: Any = distributed_c10d._get_default_store()
        store = default.clone()
        store.set_timeout(peer_timeout())
        PeerWatch._count += 1
        self._store = distributed_c10d.PrefixStore(f"lite_focus_detr_{PeerWatch._count}", store)
        self._publish()
        comm.synchronize()
        self._states = self._read()
        self._judge.meet(self._states)
        thread = threading.Thread(target=self._watch, name="peers", daemon=True)
        thread.start()
        # A question to a store whose process has stopped never ends, whatever its timeout.
        threading.Thread(target=self._guard, name="store", daemon=True).start()
        try:
            yield
            comm.synchronize()  # the first process keeps the store
        except RuntimeError as error:
            cause = self.missing()
            if cause is not None:
                raise PeerLostError(cause) from error
            raise
        finally:
            self._leave(sys.exc_info()[1])
            thread.join(timeout=2 * _BEAT_SECONDS)
            self._ended.set()

    def _leave(self, error: BaseException | None) -> None:
        """Tell the others that, and with which error, this process ends."""
        self._stop.set()
        cause = ""
        if isinstance(error, PeerLostError):
            cause = str(error)
        elif isinstance(error, Exception):
            first_line = (str(error) or repr(error)).splitlines()[0]
            text = f"has stopped with {type(error).__name__}: {first_line}"
            cause = f"rank {self.rank} ({self._state.name}) {text}"
        self._tell_cause(cause)

    def _tell_cause(self, cause: str, missing: int | None = None) -> None:
        """Say that this process leaves; the one that keeps the store waits for the others."""
        self._state.left, self._state.cause = True, cause
        self._publish(tolerant=True)
        end = time.monotonic() + _LEAVE_SECONDS
        with suppress(*_STORE_ERRORS):
            while self.rank == 0 and cause and time.monotonic() < end:
                states = self._read()
                if all(state.left or rank == missing for rank, state in states.items()):
                    return
                time.sleep(_BEAT_SECONDS / 10)

    def doing(self, what: str, iteration: int) -> None:
        """Note which part of an iteration begins: words for the user."""
        self._state.doing, self._state.iteration = what, iteration
        self._state.steps += 1

    @contextmanager
    def paused(self, what: str) -> Iterator[None]:
        """For what may keep this process from answering for a while: the others wait."""
        before = self._state.doing
        self._state.doing, self._state.paused = what, True
        self._publish(tolerant=True)
        try:
            yield
        finally:
            self._state.doing, self._state.paused = before, False
            self._publish(tolerant=True)

    def finish_together(self, seconds: float = 60.0) -> None:
        """Let the other processes wait until the first one has come here as well."""
        if self._store is None:
            return
        self._stop.set()
        try:
            if self.rank == 0:
                self._store.set("finished", "1")
            else:
                self._store.wait(["finished"], timedelta(seconds=seconds))
        except _STORE_ERRORS as error:
            logger.warning("The first process has not finished: %s", str(error).splitlines()[0])

    def missing(self) -> str | None:
        """After an error of a collective: which process has caused it.

        Returns:
            what is to be said about it; None if all give a sign.
        """
        first: dict[int, PeerState] = {}
        end = time.monotonic() + _LEAVE_SECONDS
        while True:
            try:
                states = self._read()
            except _STORE_ERRORS:
                return "rank 0 is gone"
            first = first or states
            causes = [state.cause for state in states.values() if state.cause]
            silent = [r for r, state in states.items() if state.beats == first[r].beats]
            if causes or not silent:
                return causes[0] if causes else None
            if time.monotonic() > end:
                return states[silent[0]].describe(silent[0], "is gone")
            time.sleep(_BEAT_SECONDS / 4)

    @contextmanager
    def _ask_store(self) -> Iterator[None]:
        with self._lock:
            self._asking = time.monotonic()
            try:
                yield
            finally:
                self._asking = None

    def _guard(self) -> None:
        """Body of the thread that ends this process when the store does not answer."""
        last = time.monotonic()
        while not self._ended.wait(_BEAT_SECONDS):
            now, asking = time.monotonic(), self._asking
            stopped, last = now - last > 3 * _BEAT_SECONDS, now
            if asking is None or stopped or self.rank == 0:
                continue
            if now - asking > self._judge.patience(0, self._states[0]):
                self._end(self._states[0].describe(0, "does not answer"))

    def _publish(self, *, tolerant: bool = False) -> None:
        if self._store is None:
            return
        with self._ask_store():
            self._state.beats += 1
            # Counted by the group, in the backward pass as well.
            group: Any = dist.group.WORLD
            self._state.collectives = group._get_sequence_number_for_group()
            try:
                self._store.set(str(self.rank), self._state.to_json())
            except _STORE_ERRORS:
                if not tolerant:
                    raise

    def _read(self) -> dict[int, PeerState]:
        others = [rank for rank in range(self.world_size) if rank != self.rank]
        with self._ask_store():
            values = self._store.multi_get([str(rank) for rank in others])
        return {rank: PeerState.from_json(x) for rank, x in zip(others, values, strict=True)}

    def _watch(self) -> None:
        """Body of the thread."""
        last = time.monotonic()
        while not self._stop.wait(_BEAT_SECONDS):
            now = time.monotonic()
            if now - last > 3 * _BEAT_SECONDS:  # it was this process that did not run
                self._judge.forget()
            try:
                self._publish()
                states = self._states = self._read()
            except _STORE_ERRORS:
                if not self._stop.is_set():
                    self._end("rank 0 does not answer")
                return
            last = time.monotonic()
            culprit = self._judge.culprit({self.rank: self._state, **states}, now)
            if culprit is not None and not self._stop.is_set():
                self._tell_cause(culprit.text, missing=culprit.rank)
                self._end(culprit.text)

    def _end(self, text: str) -> None:
        self.report(f"error: {text}: all processes stop. Continue with --resume")
        leave(1)
