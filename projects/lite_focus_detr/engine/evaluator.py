"""detectron2's COCO evaluator, which also says from which score on detections are right."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from detectron2.evaluation import COCOEvaluator
from pycocotools.cocoeval import COCOeval

from ..analysis.score_threshold import best_score_threshold


class ThresholdEvaluator(COCOEvaluator):
    """A ``COCOEvaluator`` that adds two results to those of the boxes.

    ``threshold`` is the score that maximises F1 at an IoU of 0.5, see
    :func:`best_score_threshold`, and ``F1`` what it is there, in percent; NaN where nothing right
    was found.
    """

    def _derive_coco_results(
        self, coco_eval: COCOeval | None, iou_type: str, class_names: Sequence[str] | None = None
    ) -> dict[str, float]:
        """Called by the base class for each kind of result."""
        results: dict[str, Any] = super()._derive_coco_results(coco_eval, iou_type, class_names)
        if iou_type != "bbox":
            return results
        best = best_score_threshold(coco_eval) if coco_eval is not None else None
        results["F1"] = 100 * best.f1 if best else math.nan
        results["threshold"] = best.score if best else math.nan
        return results
