"""Checks and repairs a COCO annotation file before training and evaluation read it."""

from __future__ import annotations

import functools
import json
import logging
import math
import os
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from detectron2.utils.file_io import PathManager

logger = logging.getLogger(__name__)

# Boxes may reach over the border of the image (amodal annotations are clipped), but one that is
# this many times larger than the image is a corrupted number that clipping would hide.
MAX_RELATIVE_SIZE = 10.0

_IMAGE_KEYS = ("id", "file_name", "height", "width")
_CATEGORY_KEYS = ("id", "name")
_ANNOTATION_KEYS = ("id", "image_id", "category_id", "bbox")


class CleanedCoco(NamedTuple):
    """A COCO data set without invalid boxes.

    ``dropped`` maps the reason to the ids of the annotations that were left out, ``filled`` the
    name of an optional key to the ids of the annotations that got its default.
    """

    dataset: dict[str, Any]
    dropped: dict[str, list[int]]
    filled: dict[str, list[int]]


@functools.cache
def prepare_coco_json(name: str, json_file: str, cache_dir: str) -> str:
    """Check a COCO file and return the path of the file to train and evaluate on.

    This is ``json_file`` itself if there is nothing to repair. Otherwise a repaired copy is
    written to ``cache_dir``, so that the loader and the evaluator see the same boxes. What was
    repaired is logged once per reason and process.

    Args:
        name: name of the data set, for messages and for the name of the copy.
        json_file: COCO annotation file.
        cache_dir: folder of the copy; created when needed.

    Raises:
        ValueError: the file is missing, not JSON or not in COCO format.
    """
    cleaned = clean_coco(read_coco_json(json_file), json_file)
    for reason, ids in cleaned.dropped.items():
        logger.warning(
            "%s: %d annotations of %s are ignored: %s (annotation ids %s)",
            *(name, len(ids), json_file, reason, _shorten(ids)),
        )
    for key, ids in cleaned.filled.items():
        logger.warning(
            "%s: %d annotations of %s have no valid '%s'; using %s (annotation ids %s)",
            *(name, len(ids), json_file, key, _DEFAULTS[key], _shorten(ids)),
        )
    if not cleaned.dropped and not cleaned.filled:
        return json_file
    return _write_json(cleaned.dataset, os.path.join(cache_dir, f"{name}.json"))


def read_coco_json(json_file: str) -> dict[str, Any]:
    """Parse a COCO annotation file and check that it has the keys that training needs.

    Raises:
        ValueError: names the file and the byte, key, image id or annotation id at fault.
    """
    if not PathManager.isfile(json_file):
        raise ValueError(f"annotation file {json_file} does not exist; check DATASETS.COCO")
    with PathManager.open(json_file, "rb") as file:
        content = file.read()
    try:
        text = content.decode("utf-8-sig")
        dataset = json.loads(text)
    except UnicodeDecodeError as error:
        raise ValueError(f"{json_file} is not UTF-8 text at byte {error.start}") from error
    except json.JSONDecodeError as error:
        byte = len(text[: error.pos].encode())
        raise ValueError(
            f"{json_file} is not valid JSON at byte {byte} of {len(content)} "
            f"(line {error.lineno}): {error.msg}; is the file truncated?"
        ) from error
    _check_structure(dataset, json_file)
    return dict(dataset)


def clean_coco(dataset: Mapping[str, Any], json_file: str) -> CleanedCoco:
    """Leave out annotations with invalid boxes, and fill the keys the evaluation needs.

    Args:
        dataset: content of a COCO file, not modified.
        json_file: where it is from, for messages.

    Raises:
        ValueError: a box is not four numbers or a category is not in the file; names image and
            annotation.
    """
    images = {image["id"]: image for image in dataset["images"]}
    categories = {category["id"] for category in dataset["categories"]}
    dropped: defaultdict[str, list[int]] = defaultdict(list)
    filled: defaultdict[str, list[int]] = defaultdict(list)
    annotations = []
    for annotation in dataset.get("annotations", ()):
        _check_annotation(annotation, categories, json_file)
        image = images.get(annotation["image_id"])
        if image is None:
            reason: str | None = "no image has their image_id"
        else:
            reason = box_fault(annotation["bbox"], image["width"], image["height"])
        if reason is None:
            annotations.append(_fill(annotation, filled))
        else:
            dropped[reason].append(annotation["id"])
    cleaned = dict(dataset)
    if "annotations" in dataset:
        cleaned["annotations"] = annotations
    return CleanedCoco(cleaned, dict(dropped), dict(filled))


def box_fault(bbox: Sequence[float], width: float, height: float) -> str | None:
    """Why a box cannot be trained on, or None if it can.

    Args:
        bbox: left, top, width and height of the box in pixels.
        width: of the image in pixels.
        height: of the image in pixels.
    """
    if not all(map(math.isfinite, bbox)):
        return "box is not finite"
    x, y, w, h = bbox
    if min(w, h) <= 0:
        return "box has zero or negative size"
    if min(width - x, height - y, x + w, y + h) <= 0:
        return "box is outside of the image"
    if max(w / width, h / height) > MAX_RELATIVE_SIZE:
        return f"box is more than {MAX_RELATIVE_SIZE:.0f} times larger than the image"
    return None


def _check_structure(dataset: Any, json_file: str) -> None:
    if not isinstance(dataset, dict):
        raise ValueError(
            f"{json_file} holds a {type(dataset).__name__} instead of a COCO object with the keys "
            "'images', 'annotations' and 'categories'"
        )
    for key in ("images", "categories"):
        if not isinstance(dataset.get(key), list) or not dataset[key]:
            raise ValueError(f"{json_file} has no list '{key}', or an empty one")
    annotations = dataset.get("annotations", [])
    if not isinstance(annotations, list):
        raise ValueError(f"'annotations' of {json_file} is not a list")
    _check_entries(dataset["images"], "image", _IMAGE_KEYS, json_file)
    _check_entries(dataset["categories"], "category", _CATEGORY_KEYS, json_file)
    _check_entries(annotations, "annotation", _ANNOTATION_KEYS, json_file)
    _check_values(dataset, json_file)


def _check_values(dataset: Mapping[str, Any], json_file: str) -> None:
    for category in dataset["categories"]:
        if not isinstance(category["id"], int):
            raise ValueError(
                f"category id {category['id']!r} of {json_file} must be an integer, as must the "
                "category_id of the annotations"
            )
    for image in dataset["images"]:
        size = (image["width"], image["height"])
        if not (all(map(_is_number, size)) and min(size) > 0):
            raise ValueError(
                f"image id {image['id']} of {json_file} has the (width, height) {size}; "
                "both must be positive numbers"
            )


def _check_entries(entries: Iterable[Any], what: str, keys: Iterable[str], json_file: str) -> None:
    seen = set()
    for index, entry in enumerate(entries):
        missing = [key for key in keys if not isinstance(entry, dict) or key not in entry]
        if missing:
            place = f"{what} id {entry['id']}" if "id" not in missing else f"{what} number {index}"
            raise ValueError(f"{place} of {json_file} has no '{missing[0]}'")
        if entry["id"] in seen:
            raise ValueError(f"{what} id {entry['id']} occurs more than once in {json_file}")
        seen.add(entry["id"])


def _check_annotation(annotation: Mapping[str, Any], categories: set[int], json_file: str) -> None:
    bbox, category = annotation["bbox"], annotation["category_id"]
    place = f"annotation id {annotation['id']} of image id {annotation['image_id']} in {json_file}"
    if not isinstance(bbox, list) or len(bbox) != 4 or not all(map(_is_number, bbox)):
        raise ValueError(f"{place} has the bbox {bbox!r}; it must be four numbers x, y, w, h")
    if not isinstance(category, int) or category not in categories:
        known = _shorten(sorted(categories))
        raise ValueError(f"{place} has the category_id {category!r}; 'categories' has {known}")


_DEFAULTS = {"area": "the area of the box", "iscrowd": "0", "segmentation": "the box alone"}


def _fill(annotation: dict[str, Any], filled: dict[str, list[int]]) -> dict[str, Any]:
    """The annotation with ``area`` and ``iscrowd``, which pycocotools reads unconditionally.

    detectron2's loader leaves out an annotation with a mask that cannot be one, while its
    evaluator counts it: without the mask, both take the box.
    """
    area = annotation.get("area", math.nan)
    defaults: dict[str, Any] = {}
    if not _is_number(area) or not math.isfinite(area):
        defaults["area"] = annotation["bbox"][2] * annotation["bbox"][3]
    if annotation.get("iscrowd") not in (0, 1):
        defaults["iscrowd"] = 0
    if not _may_be_segmentation(annotation.get("segmentation")):
        defaults["segmentation"] = []
    for key in defaults:
        filled[key].append(annotation["id"])
    return {**annotation, **defaults}


def _may_be_segmentation(value: Any) -> bool:
    """Whether this is none, run lengths, or polygons of which one has three points or more."""
    if not value or isinstance(value, dict):
        return True
    if not isinstance(value, list) or not all(isinstance(polygon, list) for polygon in value):
        return False
    return any(len(polygon) >= 6 and len(polygon) % 2 == 0 for polygon in value)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _shorten(values: list[Any], limit: int = 5) -> str:
    more = ", ..." if len(values) > limit else ""
    return ", ".join(map(repr, values[:limit])) + more


def _write_json(dataset: Mapping[str, Any], path: str) -> str:
    """Write atomically: processes that start together write the same content."""
    folder = os.path.dirname(path)
    os.makedirs(folder, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", dir=folder, suffix=".json", delete=False) as file:
        json.dump(dataset, file)
    os.replace(file.name, path)
    return path
