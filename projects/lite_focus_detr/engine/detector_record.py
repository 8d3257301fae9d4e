"""The record of its detector that every checkpoint of a training carries."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog

from .. import __version__
from ..modeling.postprocess import COCO_IDS

#: Where a checkpoint keeps it.
RECORD = "detector"


class Classes(NamedTuple):
    """The classes that a detector tells apart, as far as known."""

    names: Sequence[str] | None = None
    ids: Sequence[int] | None = None  #: in the annotation files


class DetectorRecord:
    """What the checkpoints of a training say about its detector.

    One of a checkpointer's checkpointables: what is known of the last evaluation is resumed, the
    rest is that of the present training.
    """

    def __init__(self, cfg: CfgNode, *, classes: Classes, iteration: Callable[[], int]) -> None:
        """
        Args:
            cfg: complete configuration.
            classes: see :func:`classes_of`.
            iteration: how many iterations have been made.
        """
        self.cfg = cfg
        self.classes = classes
        self.iteration = iteration
        self.metrics: dict[str, Any] = {}
        self.evaluated: int | None = None

    def note_evaluation(self, results: Mapping[str, Any]) -> None:
        """Remember the metrics of an evaluation of the present weights.

        Args:
            results: of detectron2's evaluators, for one data set or by data set.
        """
        self.metrics = plain(results)
        self.evaluated = self.iteration()

    def evaluation(self) -> dict[str, Any]:
        """What is known of the last evaluation."""
        threshold = box_metrics(self.metrics).get("threshold", math.nan)
        return {
            "threshold": None if math.isnan(threshold) else threshold,
            "metrics": self.metrics,
            "evaluated": self.evaluated,
        }

    def state_dict(self) -> dict[str, Any]:
        """The record as a checkpoint holds it: texts, numbers, lists and dictionaries."""
        return record_of(self.cfg, self.classes, self.evaluation(), self.iteration())

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Restore the last evaluation."""
        self.metrics = plain(state_dict["metrics"])
        self.evaluated = state_dict["evaluated"]


def classes_of(cfg: CfgNode, *, split: str = "TRAIN") -> Classes:
    """The classes of a detector, of the metadata of its first data set.

    Args:
        cfg: complete configuration, whose data sets have been read.
        split: ``TRAIN`` or ``TEST``.

    Returns:
        as many as the detector tells apart, or none.
    """
    data_sets = cfg.DATASETS[split]
    if not data_sets:
        return Classes()
    metadata = MetadataCatalog.get(data_sets[0])
    names = metadata.get("thing_classes")
    if names is None or len(names) != num_classes(cfg):
        return Classes()
    contiguous = metadata.get("thing_dataset_id_to_contiguous_id") or {}
    ids = sorted(contiguous, key=lambda number: int(contiguous[number]))
    fitting = len(ids) == len(names)
    return Classes([str(name) for name in names], [int(x) for x in ids] if fitting else None)


def num_classes(cfg: CfgNode) -> int:
    """How many classes a detector tells apart: rows that are COCO ids are 80 of them."""
    detr = cfg.MODEL.DETR
    return len(COCO_IDS) if detr.COCO_ID_ROWS else int(detr.NUM_CLASSES)


def record_of(
    cfg: CfgNode, classes: Classes, evaluation: Mapping[str, Any], iteration: int | None
) -> dict[str, Any]:
    """The record as a checkpoint holds it: texts, numbers, lists and dictionaries.

    Args:
        cfg: complete configuration.
        classes: of the detector.
        evaluation: see :meth:`DetectorRecord.evaluation`.
        iteration: how many iterations have been made, as far as known.
    """
    return {
        "class_names": None if classes.names is None else list(classes.names),
        "category_ids": None if classes.ids is None else list(classes.ids),
        "config": cfg.dump(),
        "input_format": cfg.INPUT.FORMAT,
        **evaluation,
        "iteration": iteration,
        "version": __version__,
    }


def box_metrics(metrics: Mapping[str, Any]) -> Mapping[str, float]:
    """Metrics of boxes, of the first data set where there are several.

    Args:
        metrics: in detectron2's nesting.
    """
    for name, results in metrics.items():
        if name == "bbox" and isinstance(results, Mapping):
            return results
        if isinstance(results, Mapping) and "bbox" in results:
            return box_metrics(results)
    return {}


def plain(value: Any) -> Any:
    """Dictionaries of numbers, whatever evaluators return.

    Raises:
        TypeError, ValueError, RecursionError: something in it is no number.
    """
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    return float(value)
