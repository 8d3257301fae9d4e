"""The least score of detections with which a detector is right most often."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
from pycocotools.cocoeval import COCOeval

from .score_curve import IOU, score_curve


class ScoreThreshold(NamedTuple):
    """A least score, and how right the detections are that have it."""

    score: float
    """in the units of the detector's scores; those that have it belong to the detections."""
    precision: float
    """share of the detections that find an object, in [0, 1]."""
    recall: float
    """share of the objects that are found, in [0, 1]."""

    @property
    def f1(self) -> float:
        """Harmonic mean of precision and recall."""
        return 2 * self.precision * self.recall / (self.precision + self.recall)


def best_score_threshold(coco_eval: COCOeval) -> ScoreThreshold | None:
    """The score that maximises F1 over the objects of all classes, at an IoU of 0.5.

    The matches are those of pycocotools: crowds and detections of them count for nothing, and only
    as many detections of an image and class take part as ``maxDets`` says.

    Args:
        coco_eval: of boxes, after ``evaluate``. Variants that keep no matches are matched anew.

    Returns:
        the highest such score; None where no detection finds an object.
    """
    least, greatest = coco_eval.params.areaRng[0]
    images = [
        image
        for image in coco_eval.evalImgs or _match(coco_eval)
        if image is not None and tuple(image["aRng"]) == (least, greatest)
    ]
    iou = int(np.argmin(np.abs(np.asarray(coco_eval.params.iouThrs) - IOU)))
    curve = score_curve(images, iou)
    best = curve.best()
    if best is None:
        return None
    return ScoreThreshold(*(float(x[best]) for x in (curve.scores, curve.precision, curve.recall)))


def _match(coco_eval: COCOeval) -> Iterable[Mapping[str, Any] | None]:
    """The matches of pycocotools for an evaluation that has kept none."""
    matching = COCOeval(coco_eval.cocoGt, coco_eval.cocoDt, "bbox")
    for name in ("imgIds", "catIds", "maxDets", "iouThrs"):
        setattr(matching.params, name, getattr(coco_eval.params, name))
    matching.params.areaRng = coco_eval.params.areaRng[:1]
    with contextlib.redirect_stdout(io.StringIO()):
        matching.evaluate()
    found: Iterable[Mapping[str, Any] | None] = matching.evalImgs
    return found
