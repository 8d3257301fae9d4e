"""Processes of a training watch each other, so that none waits for one that is gone."""

from __future__ import annotations

import json
import logging
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch.distributed as dist
from detectron2.utils import comm
from torch.distributed import distributed_c10d

from .signals import leave

logger = logging.getLogger(__name__)

#: Seconds that a process may wait for the others, in a collective or for its data.
TIMEOUT_VARIABLE = "LITE_FOCUS_DETR_TIMEOUT"

_BEAT_SECONDS = 1.0
# A stopped process or a machine that is gone; a thread of its own answers for one that is busy.
_SILENT_SECONDS = 6.0


def collective_timeout() -> timedelta:
    """How long a process waits for others: ``LITE_FOCUS_DETR_TIMEOUT`` in seconds, or half an hour.

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
        self.timeout = collective_timeout().total_seconds()
        self._state: dict[str, Any] = {
            "beat": 0,
            "iteration": 0,
            "doing": "starting",
            "steps": 0,
            "paused": False,
            "error": None,
            "left": False,
            "process": f"process {os.getpid()} on {socket.gethostname()}",
        }
        self._lock = threading.Lock()
        # When the question to the store began that has no answer yet.
        self._asking: float | None = None
        self._stop = threading.Event()
        self._ended = threading.Event()
        self._store: Any = None

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
        store.set_timeout(timedelta(seconds=_SILENT_SECONDS))
        PeerWatch._count += 1
        self._store = distributed_c10d.PrefixStore(f"lite_focus_detr_{PeerWatch._count}", store)
        self._publish()
        comm.synchronize()
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
        """Tell the others that, and with which error of its own, this process ends."""
        self._stop.set()
        self._state["left"] = True
        if isinstance(error, Exception) and not isinstance(error, PeerLostError):
            first_line = (str(error) or repr(error)).splitlines()[0]
            self._state["error"] = f"{type(error).__name__}: {first_line}"
        self._publish(tolerant=True)

    def doing(self, what: str, iteration: int) -> None:
        """Note what this process does next: words for the user."""
        self._state.update(doing=what, iteration=iteration, steps=self._state["steps"] + 1)

    @contextmanager
    def paused(self, what: str) -> Iterator[None]:
        """For what may keep this process from answering for a while: the others wait."""
        before = self._state["doing"]
        self._state.update(doing=what, paused=True)
        self._publish(tolerant=True)
        try:
            yield
        finally:
            self._state.update(doing=before, paused=False)

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
        except (RuntimeError, dist.DistError) as error:
            logger.warning("The first process has not finished: %s", str(error).splitlines()[0])

    def missing(self) -> str | None:
        """After an error of a collective: which process has caused it.

        Returns:
            what is to be said about it; None if all give a sign.
        """
        first: dict[int, dict[str, Any]] = {}
        end = time.monotonic() + 3 * _BEAT_SECONDS
        while True:
            try:
                states = self._read()
            except (RuntimeError, dist.DistError):
                return self._describe(0, {}, "is gone")
            first = first or states
            for rank, state in states.items():
                if state["error"]:
                    return self._describe(rank, state, f"has stopped with {state['error']}")
            silent = [r for r, state in states.items() if state["beat"] == first[r]["beat"]]
            if not silent:
                return None
            if time.monotonic() > end:
                return self._describe(silent[0], states[silent[0]], "is gone")
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
            if asking is not None and now - asking > _SILENT_SECONDS and not stopped:
                self._end(self._describe(0, {}, "does not answer"))

    def _publish(self, *, tolerant: bool = False) -> None:
        if self._store is None:
            return
        with self._ask_store():
            self._state["beat"] += 1
            try:
                self._store.set(str(self.rank), json.dumps(self._state))
            except (RuntimeError, dist.DistError):
                if not tolerant:
                    raise

    def _read(self) -> dict[int, dict[str, Any]]:
        others = [rank for rank in range(self.world_size) if rank != self.rank]
        with self._ask_store():
            values = self._store.multi_get([str(rank) for rank in others])
        return {rank: json.loads(value) for rank, value in zip(others, values, strict=True)}

    def _watch(self) -> None:
        """Body of the thread."""
        seen: dict[int, tuple[int, float]] = {}
        mine = (self._state["steps"], time.monotonic())
        last = time.monotonic()
        while not self._stop.wait(_BEAT_SECONDS):
            now = time.monotonic()
            if now - last > 3 * _BEAT_SECONDS:  # it was this process that did not run
                seen.clear()
                mine = (self._state["steps"], now)
            last = now
            try:
                self._publish()
                states = self._read()
            except (RuntimeError, dist.DistError):
                if not self._stop.is_set():
                    self._end(self._describe(0, {}, "does not answer"))
                return
            if mine[0] != self._state["steps"]:
                mine = (self._state["steps"], now)
            last = time.monotonic()
            self.check(states, seen, waiting=now - mine[1], now=now)

    def check(
        self,
        states: dict[int, dict[str, Any]],
        seen: dict[int, tuple[int, float]],
        *,
        waiting: float,
        now: float,
    ) -> None:
        """End this process if another one is missing.

        Args:
            states: what the others have last said of themselves, by rank.
            seen: beat and time of the last change of each, brought up to date.
            waiting: seconds since this process has last done a step.
            now: seconds of the clock of ``seen``.
        """
        for rank, state in states.items():
            if rank not in seen or seen[rank][0] != state["beat"]:
                seen[rank] = (state["beat"], now)
            silent = now - seen[rank][1]
            if state["left"] or state["paused"]:
                seen[rank] = (state["beat"], now)
            elif silent > _SILENT_SECONDS:
                self._end(self._describe(rank, state, f"has not answered for {silent:.0f} s"))
            elif waiting > self.timeout and state["steps"] < self._state["steps"]:
                text = f"keeps the others waiting for {waiting:.0f} s"
                self._end(self._describe(rank, state, text))

    def _describe(self, rank: int, state: dict[str, Any], text: str) -> str:
        place = f" ({state['process']})" if state else ""
        doing = f" in iteration {state['iteration']}, {state['doing']}" if state else ""
        return f"rank {rank}{place} {text}{doing}"

    def _end(self, text: str) -> None:
        self.report(f"error: {text}: all processes stop. Continue with --resume")
        leave(1)
