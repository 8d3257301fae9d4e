"""Checks and repairs a COCO annotation file before training and evaluation read it."""

from __future__ import annotations

import codecs
import functools
import json
import logging
import os
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypeGuard

from detectron2.utils.file_io import PathManager

from .atomic_file import atomic_file
from .coco_format import check_annotation, check_structure, is_finite, is_number, name_first

logger = logging.getLogger(__name__)

# Boxes may reach over the border of the image (amodal annotations are clipped), but one that is
# this many times larger than the image is a corrupted number that clipping would hide.
MAX_RELATIVE_SIZE = 10.0
# The largest area that COCO's AP counts.
MAX_AREA = 1e10


class CleanedCoco(NamedTuple):
    """A COCO data set without invalid boxes.

    ``dropped`` maps the reason to the ids of the annotations that were left out, ``filled`` the
    name of a key to the ids of the annotations that got another value.
    """

    dataset: dict[str, Any]
    dropped: dict[str, list[Any]]
    filled: dict[str, list[Any]]


@functools.cache
def prepare_coco_json(name: str, json_file: str, cache_dir: str) -> str:
    """Check a COCO file and return the path of the file to train and evaluate on.

    This is ``json_file`` itself if there is nothing to repair. Otherwise a repaired copy is
    written to ``cache_dir``, so that the loader and the evaluator see the same boxes; also of a
    file that begins with a byte order mark, which pycocotools does not read. What was repaired is
    logged once per reason and process.

    Args:
        name: name of the data set, for messages and for the name of the copy.
        json_file: COCO annotation file.
        cache_dir: folder of the copy; created when needed.

    Raises:
        ValueError: the file is missing, not JSON or not in COCO format.
    """
    cleaned = clean_coco(read_coco_json(json_file), json_file)
    names = Counter(category["name"] for category in cleaned.dataset["categories"])
    for repeated in [category for category, count in names.items() if count > 1]:
        logger.warning(
            "%s: %d categories of %s are called %r; the evaluation shows the AP of one of them",
            *(name, names[repeated], json_file, repeated),
        )
    for reason, ids in cleaned.dropped.items():
        logger.warning(
            "%s: %d annotations of %s are ignored: %s (annotation ids %s)",
            *(name, len(ids), json_file, reason, name_first(ids)),
        )
    for key, ids in cleaned.filled.items():
        logger.warning(
            "%s: %d annotations of %s have no valid '%s'; using %s (annotation ids %s)",
            *(name, len(ids), json_file, key, FILLED[key], name_first(ids)),
        )
    if not cleaned.dropped and not cleaned.filled and not _has_byte_order_mark(json_file):
        return json_file
    return write_json(cleaned.dataset, os.path.join(cache_dir, f"{name}.json"))


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
        raise ValueError(
            f"{json_file} is not UTF-8 text at byte {error.start}; save it as UTF-8"
        ) from error
    except json.JSONDecodeError as error:
        byte = len(text[: error.pos].encode())
        raise ValueError(
            f"{json_file} is not valid JSON at byte {byte} of {len(content)} "
            f"(line {error.lineno}): {error.msg}; is the file truncated?"
        ) from error
    except (ValueError, RecursionError) as error:  # numbers of thousands of digits, deep lists
        raise ValueError(f"{json_file} cannot be read: {error}") from error
    check_structure(dataset, json_file)
    return dict(dataset)


def _has_byte_order_mark(json_file: str) -> bool:
    with PathManager.open(json_file, "rb") as file:
        return bool(file.read(len(codecs.BOM_UTF8)) == codecs.BOM_UTF8)


def clean_coco(dataset: Mapping[str, Any], json_file: str) -> CleanedCoco:
    """Leave out annotations with invalid boxes, and fill the keys the evaluation needs.

    Where an annotation has an id that pycocotools does not take for one, all are numbered anew.

    Args:
        dataset: content of a COCO file, not modified.
        json_file: where it is from, for messages.

    Raises:
        ValueError: a box is not four numbers or a category is not in the file; names image and
            annotation.
    """
    images = {image["id"]: image for image in dataset["images"]}
    categories = {category["id"] for category in dataset["categories"]}
    dropped: defaultdict[str, list[Any]] = defaultdict(list)
    filled: defaultdict[str, list[Any]] = defaultdict(list)
    annotations = []
    for annotation in dataset.get("annotations", ()):
        check_annotation(annotation, categories, json_file)
        image = images.get(annotation["image_id"])
        if image is None:
            reason: str | None = "no image has their image_id"
        else:
            reason = box_fault(annotation["bbox"], image["width"], image["height"])
        if reason is None:
            annotations.append(_fill(annotation, filled))
        else:
            dropped[reason].append(annotation["id"])
    if "id" in filled:
        annotations = [{**a, "id": number} for number, a in enumerate(annotations, 1)]
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
    if not all(map(is_finite, bbox)):
        return "box is not finite"
    x, y, w, h = bbox
    if min(w, h) <= 0:
        return "box has zero or negative size"
    if min(width - x, height - y, x + w, y + h) <= 0:
        return "box is outside of the image"
    if max(w / width, h / height) > MAX_RELATIVE_SIZE:
        return f"box is more than {MAX_RELATIVE_SIZE:.0f} times larger than the image"
    return None


#: What an annotation without a valid value of a key gets.
FILLED = {
    "id": "1, 2, 3, ... for all: pycocotools takes an object with the id 0 for one not found",
    "area": "the area of the box",
    "iscrowd": "0",
    "segmentation": "the box alone",
}


def _fill(annotation: dict[str, Any], filled: dict[str, list[Any]]) -> dict[str, Any]:
    """The annotation with what pycocotools and detectron2's loader read unconditionally.

    This loader leaves out an annotation with a mask that cannot be one, while its evaluator
    counts it: without the mask, both take the box. A negative area, or one beyond the limit of
    pycocotools, would take an object out of the evaluation.
    """
    number, bbox = annotation["id"], annotation["bbox"]
    defaults: dict[str, Any] = {}
    if not isinstance(number, int) or number < 1:
        filled["id"].append(number)
    if not _may_be_area(annotation.get("area")):
        defaults["area"] = bbox[2] * bbox[3]
    if annotation.get("iscrowd") not in (0, 1):
        defaults["iscrowd"] = 0
    if not _may_be_segmentation(annotation.get("segmentation")):
        defaults["segmentation"] = []
    for key in defaults:
        filled[key].append(number)
    return {**annotation, **defaults}


def _may_be_area(value: Any) -> bool:
    return is_number(value) and is_finite(value) and 0 < value <= MAX_AREA


def _may_be_segmentation(value: Any) -> bool:
    """Whether this is none, run lengths, or polygons of which one has three points or more."""
    if not value:
        return True
    if isinstance(value, dict):
        return _may_be_run_lengths(value)
    if not isinstance(value, list) or not all(isinstance(polygon, list) for polygon in value):
        return False
    return any(len(polygon) >= 6 and len(polygon) % 2 == 0 for polygon in value)


def _may_be_run_lengths(value: dict[str, Any]) -> bool:
    size, counts = value.get("size"), value.get("counts")
    if not _are_lengths(size) or len(size) != 2:
        return False
    return isinstance(counts, str) or _are_lengths(counts)


def _are_lengths(value: Any) -> TypeGuard[list[int]]:
    return isinstance(value, list) and all(type(n) is int and 0 <= n < 2**31 for n in value)


def write_json(dataset: Mapping[str, Any], path: str) -> str:
    """Write atomically, see :func:`atomic_file`; returns the path."""
    with atomic_file(path) as file:
        json.dump(dataset, file)
    return path
