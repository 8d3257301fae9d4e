"""What a check has found."""

from __future__ import annotations

import enum
from collections.abc import Iterable
from dataclasses import dataclass

#: Examples that are kept of a finding.
MAX_EXAMPLES = 20


class Level(enum.IntEnum):
    """How bad a finding is."""

    NOTE = 0  #: worth to know
    WARNING = 1  #: training can start, but something is to be mended
    ERROR = 2  #: training cannot start, or would end at it


@dataclass(frozen=True)
class Finding:
    """One kind of fault, with how often it occurs."""

    level: Level
    group: str  #: files, boxes, classes, duplicates, queries
    text: str  #: one line without the examples
    count: int
    examples: tuple[str, ...] = ()

    @classmethod
    def of(cls, level: Level, group: str, text: str, examples: Iterable[str]) -> Finding:
        """A finding that occurs as often as there are examples, of which the first are kept."""
        found = tuple(examples)
        return cls(level, group, text, len(found), found[:MAX_EXAMPLES])
