"""What a checkpoint says about its detector, so that the file alone is enough to use it."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import yaml
from detectron2.config import CfgNode

from ..config import SavedConfig
from ..config.safe_yaml import parse_yaml
from ..converters import published_class_names, unwrap
from ..modeling.postprocess import COCO_IDS
from .checkpoint_io import read_checkpoint
from .detector_record import RECORD, Classes, box_metrics, num_classes, plain, record_of

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
        return box_metrics(self.metrics).get("AP")

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
        return record_of(cfg, classes, evaluation, self.iteration)

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
    values = {key: record.get(key) for key in _TYPES}
    values["metrics"] = plain(values["metrics"] or {})
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
        plain(record.get("metrics") or {})
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
    name = model.get("META_ARCHITECTURE") if isinstance(model, Mapping) else None
    return None if name is None else printable(str(name))


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
