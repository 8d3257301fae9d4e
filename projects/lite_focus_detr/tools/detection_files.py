"""Detections in files: JSON with names, a table, and results in COCO's format."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import IO, Any

from detectron2.evaluation.coco_evaluation import instances_to_coco_json
from detectron2.structures import Instances

from ..engine.checkpoint_io import write_atomically

FILES = {
    "json": "predictions.json",
    "csv": "predictions.csv",
    "coco": "predictions_coco.json",
}
_COLUMNS = ("file_name", "frame", "seconds", "category_id", "category", "score")


class DetectionFiles:
    """Collects the detections in images, and writes them."""

    def __init__(
        self, class_names: Sequence[str] | None, category_ids: Sequence[int] | None
    ) -> None:
        """
        Args:
            class_names: of each class; None: they have numbers alone.
            category_ids: the number of each class in annotation files in COCO format; None: one
                more than its number here.
        """
        self.class_names = class_names
        self.category_ids = category_ids
        self.detections: list[dict[str, Any]] = []
        self._images: list[tuple[str, int | None]] = []

    def add(self, instances: Instances, file_name: str, **place: float) -> None:
        """Add the detections in an image.

        Args:
            instances: with ``pred_boxes`` in pixels, ``scores`` and ``pred_classes``.
            file_name: of the image or the video.
            place: of a video ``frame`` and ``seconds``.
        """
        self._images.append((file_name, int(place["frame"]) if place else None))
        for found in instances_to_coco_json(instances, file_name):
            label = found["category_id"]
            detection = {"file_name": file_name, **place, "category_id": label}
            if self.class_names is not None:
                detection["category"] = self.class_names[label]
            self.detections.append({**detection, "bbox": found["bbox"], "score": found["score"]})

    def write(self, folder: Path, kinds: Sequence[str]) -> list[str]:
        """Write files of some of the kinds in ``FILES``; returns their names.

        Raises:
            OSError: they cannot be written.
        """
        texts = {"json": self._json, "csv": self._csv, "coco": self._coco}
        for kind in kinds:
            content = texts[kind]().encode()
            write_atomically(str(folder / FILES[kind]), partial(_put, content))
        return [FILES[kind] for kind in kinds]

    def _json(self) -> str:
        return json.dumps(self.detections, indent=1)

    def _csv(self) -> str:
        text = io.StringIO()
        writer = csv.writer(text)
        writer.writerow((*_COLUMNS, "x", "y", "width", "height"))
        for found in self.detections:
            writer.writerow([*(found.get(column, "") for column in _COLUMNS), *found["bbox"]])
        return text.getvalue()

    def _coco(self) -> str:
        ids = self._image_ids()
        results = [
            {
                "image_id": ids[found["file_name"], found.get("frame")],
                "file_name": found["file_name"],
                "category_id": self._category(found["category_id"]),
                "bbox": found["bbox"],
                "score": found["score"],
            }
            for found in self.detections
        ]
        return json.dumps(results, indent=1)

    def _category(self, label: int) -> int:
        return label + 1 if self.category_ids is None else self.category_ids[label]

    def _image_ids(self) -> Mapping[tuple[str, int | None], int]:
        """The number in the name of each image, as COCO's files have it, or else its place."""
        stems = [Path(file_name).stem for file_name, _ in self._images]
        numbers = [int(stem) for stem in stems if stem.isascii() and stem.isdecimal()]
        images = dict.fromkeys(self._images)
        if len(set(numbers)) != len(images):
            numbers = list(range(1, len(images) + 1))
        return dict(zip(images, numbers, strict=True))


def _put(content: bytes, file: IO[bytes]) -> None:
    file.write(content)
