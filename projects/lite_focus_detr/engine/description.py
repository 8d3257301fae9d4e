"""What a checkpoint says about its detector, so that the file alone is enough to use it."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import yaml
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog

from .. import __version__
from ..config import SavedConfig
from ..config.safe_yaml import parse_yaml
from ..converters import published_class_names, unwrap
from ..modeling.postprocess import COCO_IDS
from .checkpoint_io import read_checkpoint

#: Where a checkpoint keeps it.
RECORD = "detector"
_SHOWN_NAMES = 8
_FIRST_NAMES = 3

_TYPES: dict[str, type] = {
    "class_names": list,
    "category_ids": list,
    "config": str,
    "input_format": str,
    "threshold": float,
    "metrics": dict,
    "evaluated": int,
    "iteration": int,
    "version": str,
}


class Classes(NamedTuple):
    """The classes that a detector tells apart, as far as known."""

    names: Sequence[str] | None = None
    ids: Sequence[int] | None = None  #: in the annotation files


@dataclass(frozen=True)
class CheckpointDescription:
    """What a checkpoint is of. Files that others have published know little of this.

    Attributes:
        file: its path.
        class_names: of each class; those of COCO for published detectors of COCO.
        category_ids: the number of each class in annotation files in COCO format, likewise.
        config: the configuration of the training, as YAML.
        architecture: ``MODEL.META_ARCHITECTURE`` of it.
        input_format: order of the channels of the images, "RGB" or "BGR".
        threshold: the score that maximises F1 on the evaluation set.
        metrics: of the last evaluation, in detectron2's nesting.
        evaluated: after how many iterations that was.
        iteration: after how many iterations the file was written.
        version: of this package, which wrote the file.
    """

    file: str
    class_names: tuple[str, ...] | None = None
    category_ids: tuple[int, ...] | None = None
    config: str | None = None
    architecture: str | None = None
    input_format: str | None = None
    threshold: float | None = None
    metrics: Mapping[str, Any] = field(default_factory=dict)
    evaluated: int | None = None
    iteration: int | None = None
    version: str | None = None

    @property
    def ap(self) -> float | None:
        """AP of the boxes, in percent, on the first evaluation set."""
        return _first_box_metrics(self.metrics).get("AP")

    def record(self, cfg: CfgNode) -> dict[str, Any]:
        """What a file with the same weights in another form says, see :class:`DetectorRecord`.

        Args:
            cfg: complete configuration of the detector.
        """
        fitting = self.class_names is not None and len(self.class_names) == num_classes(cfg)
        classes = Classes(self.class_names, self.category_ids) if fitting else Classes()
        evaluation = {
            "threshold": self.threshold,
            "metrics": dict(self.metrics),
            "evaluated": self.evaluated,
        }
        return _record(cfg, classes, evaluation, self.iteration)

    def saved_config(self, *, trust_imports: bool = False) -> SavedConfig:
        """The configuration, for :func:`load_config`.

        Args:
            trust_imports: import the modules that it names.

        Raises:
            ValueError: the file has none.
        """
        if self.config is None:
            raise ValueError(
                f"{self.file} holds no configuration: give the one that it was trained with, by "
                "--config-file or Predictor(weights, config=NAME)"
            )
        return SavedConfig(self.config, self.file, trust_imports)

    def __str__(self) -> str:
        parts = [self.architecture or "a checkpoint without a record of its training"]
        if self.class_names is not None:
            parts.append(format_classes(self.class_names))
        if self.iteration is not None:
            parts.append(f"iteration {self.iteration}")
        if self.ap is not None and not math.isnan(self.ap):
            earlier = f" at iteration {self.evaluated}" if self.evaluated != self.iteration else ""
            parts.append(f"AP {self.ap:.1f}{earlier}")
        if self.threshold is not None:
            parts.append(f"threshold {self.threshold:.2f}")
        return f"{os.path.basename(self.file)}: {', '.join(parts)}"


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
        self.metrics = _plain(results)
        self.evaluated = self.iteration()

    def evaluation(self) -> dict[str, Any]:
        """What is known of the last evaluation."""
        threshold = _first_box_metrics(self.metrics).get("threshold", math.nan)
        return {
            "threshold": None if math.isnan(threshold) else threshold,
            "metrics": self.metrics,
            "evaluated": self.evaluated,
        }

    def state_dict(self) -> dict[str, Any]:
        """The record as a checkpoint holds it: texts, numbers, lists and dictionaries."""
        return _record(self.cfg, self.classes, self.evaluation(), self.iteration())

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Restore the last evaluation."""
        self.metrics = _plain(state_dict["metrics"])
        self.evaluated = state_dict["evaluated"]


def describe_checkpoint(path: str) -> CheckpointDescription:
    """What a checkpoint file is of.

    Args:
        path: local file.

    Raises:
        OSError, ValueError: see :func:`read_checkpoint` and :func:`description_of`.
    """
    return description_of(read_checkpoint(path), path)


def description_of(contents: Mapping[str, Any], path: str) -> CheckpointDescription:
    """The same for a file that has been read.

    Args:
        contents: of the file.
        path: its name, for messages.

    Raises:
        ValueError: its record is not what this package writes.
    """
    config = saved_config(contents)
    record = contents.get(RECORD)
    architecture = _architecture(config, path)
    if record is None:
        names = _published_names(contents)
        ids = COCO_IDS if names else None
        return CheckpointDescription(path, names, ids, config, architecture)
    _require_record(record, path)
    values = {key: record.get(key) for key in _TYPES} | {"metrics": record.get("metrics") or {}}
    for key in ("class_names", "category_ids"):
        values[key] = None if values[key] is None else tuple(values[key])
    return CheckpointDescription(path, architecture=architecture, **values)


def saved_config(contents: Mapping[str, Any]) -> str | None:
    """The configuration of the training that wrote a checkpoint, as YAML; None: it has none.

    Args:
        contents: of the file, which before version 0.3 kept it in the state of the trainer.
    """
    for place in (RECORD, "trainer"):
        part = contents.get(place)
        if isinstance(part, Mapping) and isinstance(part.get("config"), str):
            return str(part["config"])
    return None


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


def _record(
    cfg: CfgNode, classes: Classes, evaluation: Mapping[str, Any], iteration: int | None
) -> dict[str, Any]:
    return {
        "class_names": None if classes.names is None else list(classes.names),
        "category_ids": None if classes.ids is None else list(classes.ids),
        "config": cfg.dump(),
        "input_format": cfg.INPUT.FORMAT,
        **evaluation,
        "iteration": iteration,
        "version": __version__,
    }


def _published_names(contents: Mapping[str, Any]) -> tuple[str, ...] | None:
    try:
        return published_class_names(unwrap(contents))
    except ValueError:  # no weights, or of an unknown format: who loads them will say so
        return None


def _require_record(record: Any, path: str) -> None:
    wrong = _wrong_entry(record)
    if wrong is not None:
        raise ValueError(
            f"{path} has a record of its detector whose {wrong} is not what this package writes; "
            "use another copy of the file"
        )


def _wrong_entry(record: Any) -> str | None:
    """The first entry of a record that is of another kind; later versions may leave some out."""
    if not isinstance(record, Mapping):
        return "content"
    for key, kind in _TYPES.items():
        if not isinstance(record.get(key), (kind, type(None))):
            return key
    for key, kind in (("class_names", str), ("category_ids", int)):
        if not all(isinstance(entry, kind) for entry in record.get(key) or ()):
            return key
    try:
        _plain(record.get("metrics") or {})
    except (TypeError, ValueError, RecursionError):
        return "metrics"
    return None


def _architecture(config: str | None, path: str) -> str | None:
    if config is None:
        return None
    try:
        content = parse_yaml(config, path)
    except yaml.YAMLError as error:
        raise ValueError(f"the configuration in {path} is not valid YAML") from error
    model = content.get("MODEL") if isinstance(content, Mapping) else None
    return str(model.get("META_ARCHITECTURE")) if isinstance(model, Mapping) else None


def _first_box_metrics(metrics: Mapping[str, Any]) -> Mapping[str, float]:
    """Of the first data set, where there are several."""
    for name, results in metrics.items():
        if name == "bbox" and isinstance(results, Mapping):
            return results
        if isinstance(results, Mapping) and "bbox" in results:
            return _first_box_metrics(results)
    return {}


def _plain(value: Any) -> Any:
    """Dictionaries of numbers, whatever evaluators return."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    return float(value)


def format_classes(names: Sequence[str]) -> str:
    """How many classes there are, and the names of the first.

    Args:
        names: of all classes.
    """
    shown = [_format_name(name) for name in names]
    if len(shown) > _SHOWN_NAMES:
        shown = [*shown[:_FIRST_NAMES], "...", shown[-1]]
    return f"{len(names)} {'class' if len(names) == 1 else 'classes'} {' '.join(shown)}"


def _format_name(name: str) -> str:
    """In quotes where it has spaces."""
    name = printable(name)
    return f"'{name}'" if " " in name else name


def printable(text: str) -> str:
    """Text that does nothing to a terminal, whatever file it is from."""
    return text if text.isprintable() else ascii(text)[1:-1]
