"""Which of the processes of a training keeps the others from going on."""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Mapping
from typing import Any, NamedTuple

logger = logging.getLogger(__name__)

# A stopped process or a machine that is gone; a thread of its own answers for one that is busy.
_SILENT_SECONDS = 6.0
# A process that keeps the others waiting is named in the log, long before it ends the training.
_SLOW_SECONDS = 10.0


@dataclasses.dataclass
class PeerState:
    """What a process says of itself."""

    process: str
    """Its id and its machine."""
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

    def describe(self, rank: int, text: str) -> str:
        """Name the process, what is wrong with it, and what it was doing."""
        return f"rank {rank} ({self.process}) {text} in iteration {self.iteration}, {self.doing}"


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
            timeout: seconds that a process may keep the others waiting, and be silent while it is
                paused.
        """
        self.timeout = timeout
        self._since: dict[tuple[str, int], tuple[Any, float]] = {}
        self._warned: set[tuple[int, tuple[int, int]]] = set()

    def forget(self) -> None:
        """Begin anew, after a time in which this process did not run."""
        self._since.clear()

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
        if silent > (self.timeout if state.paused else _SILENT_SECONDS):
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
