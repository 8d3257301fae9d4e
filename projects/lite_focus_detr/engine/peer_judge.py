"""Which of the processes of a training keeps the others from going on."""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import socket
from collections.abc import Mapping
from typing import Any, NamedTuple

from .process_info import is_stopped, process_start

logger = logging.getLogger(__name__)

# A thread of its own answers for a process, also for one that is busy: but on a machine with too
# little for all that run there it may wait for long.
_STOPPED_SECONDS = 6.0
_SILENT_SECONDS = 30.0
# A process that keeps the others waiting is named in the log, long before it ends the training.
_SLOW_SECONDS = 10.0


@dataclasses.dataclass
class PeerState:
    """What a process says of itself."""

    host: str
    process: int
    started: str | None
    """See :func:`process_start`."""
    iteration: int = 0
    doing: str = "starting"
    beats: int = 0
    """How often it has given a sign."""
    steps: int = 0
    """Parts of iterations that it has begun."""
    collectives: int = 0
    """Operations of all processes together that it has begun."""
    paused: bool = False
    """It does what may take long while the others wait."""
    left: bool = False
    cause: str = ""
    """Why it has left, where that ends the training of the others."""

    @property
    def progress(self) -> tuple[int, int]:
        """How far it has come; the same for all processes that wait for each other."""
        return self.steps, self.collectives

    def to_json(self) -> str:
        """Return the text that :meth:`from_json` reads."""
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str | bytes) -> PeerState:
        """Read what :meth:`to_json` has written."""
        return cls(**json.loads(text))

    def is_here(self) -> bool:
        """Whether it is a process of this machine that is running or stopped."""
        return self.host == socket.gethostname() and self.started == process_start(self.process)

    @classmethod
    def of_this_process(cls) -> PeerState:
        """Return that of this one, before it begins."""
        process = os.getpid()
        return cls(socket.gethostname(), process, process_start(process))

    @property
    def name(self) -> str:
        """Words for the user."""
        return f"process {self.process} on {self.host}"

    def describe(self, rank: int, text: str) -> str:
        """Name the process, what is wrong with it, and what it was doing."""
        return f"rank {rank} ({self.name}) {text} in iteration {self.iteration}, {self.doing}"


class Culprit(NamedTuple):
    """A process because of which the others have to end."""

    rank: int
    text: str
    """Its name and what is wrong with it."""


class PeerJudge:
    """Finds the process that is missing in what all processes have said of themselves."""

    def __init__(self, timeout: float) -> None:
        """Begin without knowledge.

        Args:
            timeout: seconds that a process may keep the others waiting.
        """
        self.timeout = timeout
        self._seen_here: set[int] = set()
        self._since: dict[tuple[str, int], tuple[Any, float]] = {}
        self._warned: set[tuple[int, tuple[int, int]]] = set()

    def meet(self, states: Mapping[int, PeerState]) -> None:
        """Find out which processes are on this machine, where what has become of them is known.

        Args:
            states: what the processes say at the beginning, by rank.
        """
        self._seen_here = {rank for rank, state in states.items() if state.is_here()}

    def forget(self) -> None:
        """Begin anew, after a time in which this process did not run."""
        self._since.clear()

    def patience(self, rank: int, state: PeerState) -> float:
        """How many seconds a process may be silent."""
        here = state.is_here()
        if rank in self._seen_here and (not here or is_stopped(state.process)):
            return _STOPPED_SECONDS
        return self.timeout if here or state.paused else min(self.timeout, _SILENT_SECONDS)

    def culprit(self, states: Mapping[int, PeerState], now: float) -> Culprit | None:
        """Find the process because of which this one has to end.

        Args:
            states: what all processes have last said, this one included, by rank.
            now: seconds of a clock.

        Returns:
            None if all may go on.
        """
        furthest = max(state.progress for state in states.values())
        for rank, state in states.items():
            if text := self._cause(rank, state, behind=state.progress < furthest, now=now):
                return Culprit(rank, text)
        return None

    def _cause(self, rank: int, state: PeerState, *, behind: bool, now: float) -> str | None:
        left = self._seconds_since("left", rank, state.cause, now)
        if state.left:
            # Where the same ends all processes, each says so itself.
            return state.cause if state.cause and left > 0 else None
        silent = self._seconds_since("beat", rank, state.beats, now)
        if silent > self.patience(rank, state):
            return state.describe(rank, f"has not answered for {silent:.0f} s")
        return self._slowness(rank, state, waited_for=behind and not state.paused, now=now)

    def _slowness(self, rank: int, state: PeerState, *, waited_for: bool, now: float) -> str | None:
        seconds = self._seconds_since("progress", rank, (state.progress, waited_for), now)
        if not waited_for or seconds <= min(self.timeout, _SLOW_SECONDS):
            return None
        text = state.describe(rank, f"keeps the others waiting for {seconds:.0f} s")
        if seconds > self.timeout:
            return text
        if (rank, state.progress) not in self._warned:
            self._warned.add((rank, state.progress))
            logger.warning("%s; after %.0f s all processes stop", text, self.timeout)
        return None

    def _seconds_since(self, what: str, rank: int, value: object, now: float) -> float:
        """How long a value has been what it is."""
        if self._since.get((what, rank), (None,))[0] != value:
            self._since[what, rank] = value, now
        return now - self._since[what, rank][1]
