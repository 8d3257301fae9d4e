"""Precision, recall and F1 of detections over the least score that they must have."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

IOU = 0.5

Array = npt.NDArray[np.float64]


class ScoreCurve(NamedTuple):
    """How right the detections are that have at least a score, for N such scores."""

    scores: Array  #: (N,), falling; each is the score of a detection
    precision: Array  #: (N,) share of the detections that find an object, in [0, 1]
    recall: Array  #: (N,) share of the objects that are found, in [0, 1]

    @property
    def f1(self) -> Array:
        """Harmonic mean of precision and recall; 0 where both are."""
        total = self.precision + self.recall
        return 2 * self.precision * self.recall / np.where(total > 0, total, 1)

    def best(self) -> int | None:
        """The place of the greatest F1, of several the one with the highest score; None where no
        detection finds an object."""
        f1 = self.f1
        return int(f1.argmax()) if len(f1) and f1.max() > 0 else None

    def at(self, score: float) -> tuple[float, float, float]:
        """Precision, recall and F1 of the detections of at least ``score``; 0 without any."""
        count = int((self.scores >= score).sum())
        if not count:
            return 0.0, 0.0, 0.0
        place = count - 1
        return float(self.precision[place]), float(self.recall[place]), float(self.f1[place])


def score_curve(matches: Iterable[Mapping[str, Any]], iou_index: int) -> ScoreCurve:
    """The curve of the detections of some images and classes.

    Args:
        matches: of pycocotools or of its like (``evalImgs``) for one range of areas.
        iou_index: of the IoU threshold among those that were matched at.
    """
    scores, found, num_objects = [], [], 0
    for match in matches:
        num_objects += sum(not ignored for ignored in match["gtIgnore"])
        if not len(match["dtScores"]):
            continue
        counted = ~np.asarray(match["dtIgnore"], dtype=bool)[iou_index]
        scores.append(np.asarray(match["dtScores"], dtype=float)[counted])
        found.append(np.asarray(match["dtMatches"])[iou_index][counted] > 0)
    if not scores:
        return ScoreCurve(*(np.empty(0) for _ in range(3)))
    all_scores, all_found = np.concatenate(scores), np.concatenate(found)
    order = np.argsort(-all_scores, kind="stable")
    all_scores, hits = all_scores[order], np.cumsum(all_found[order])
    # Of detections with one score all are taken or none.
    last = np.flatnonzero(np.append(all_scores[1:] != all_scores[:-1], True)[: len(all_scores)])
    precision = hits[last] / (last + 1)
    return ScoreCurve(all_scores[last], precision, hits[last] / max(num_objects, 1))
