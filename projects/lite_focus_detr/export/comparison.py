"""What an exported model has in common with the detector it was made of."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from tabulate import tabulate

#: Largest deviation of logits, boxes and scores, and what a detection is to have in both.
TOLERANCE = 1e-4
THRESHOLD = 0.3


class Comparison(NamedTuple):
    """Largest deviations of a batch. A choice is that of tokens, queries or detections."""

    batch: tuple[int, ...]  #: shape of the images
    logits: float  #: of all queries
    boxes: float  #: of all queries, in units of the image
    choices: float  #: of the scores of what was chosen from the best that there are
    scores: float  #: of the detections
    agreement: float  #: share of the detections above ``THRESHOLD`` with the same class and box
    detections: int  #: above ``THRESHOLD``

    @property
    def passed(self) -> bool:
        """Whether it is the same model; a deviation that is not a number says no."""
        deviations = (self.logits, self.boxes, self.choices, self.scores)
        return all(x <= TOLERANCE for x in deviations) and self.agreement == 1.0


def format_comparisons(comparisons: Sequence[Comparison]) -> str:
    """A table of them."""
    headers = ("images", *(name for name in Comparison._fields[1:]))
    rows = [("x".join(map(str, x.batch)), *x[1:]) for x in comparisons]
    return tabulate(rows, headers, tablefmt="pipe", floatfmt=".1e")
