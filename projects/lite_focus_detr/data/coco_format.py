"""What a COCO annotation file must have; anything else is refused with its place."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

_IMAGE_KEYS = ("id", "file_name", "height", "width")
_CATEGORY_KEYS = ("id", "name")
_ANNOTATION_KEYS = ("id", "image_id", "category_id", "bbox")
#: Ids below this are exact in the arrays of pycocotools.
MAX_ID = 2**53


def check_structure(dataset: Any, json_file: str) -> None:
    """Check the top level, and ids, names and sizes of images and categories.

    Args:
        dataset: content of an annotation file.
        json_file: where it is from, for messages.

    Raises:
        ValueError: names the file and the key, image id, category id or annotation id at fault.
    """
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
    _check_categories(dataset["categories"], json_file)
    _check_images(dataset["images"], json_file)


def check_annotation(annotation: Mapping[str, Any], categories: set[int], json_file: str) -> None:
    """Check the values of an annotation that has all keys.

    Args:
        annotation: with ``id``, ``image_id``, ``category_id`` and ``bbox``.
        categories: ids of the file.
        json_file: where it is from, for messages.

    Raises:
        ValueError: names image and annotation.
    """
    bbox, category = annotation["bbox"], annotation["category_id"]
    place = f"annotation id {annotation['id']} of image id {annotation['image_id']} in {json_file}"
    if not _is_id(annotation["image_id"]):
        raise ValueError(f"{place}: an image_id must be an integer, or text as the id of the image")
    if not isinstance(bbox, list) or len(bbox) != 4 or not all(map(is_number, bbox)):
        raise ValueError(f"{place} has the bbox {bbox!r}; it must be four numbers x, y, w, h")
    if type(category) is not int or category not in categories:
        known = name_first(sorted(categories))
        raise ValueError(f"{place} has the category_id {category!r}; 'categories' has {known}")
    if annotation.get("ignore"):
        raise ValueError(f"{place} has 'ignore'; mark what is not to be found by 'iscrowd': 1")


def is_number(value: Any) -> bool:
    """Whether this is a number of JSON; True and False are none."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def is_finite(value: float) -> bool:
    """Whether a number can be calculated with: integers of hundreds of digits cannot."""
    try:
        return math.isfinite(value)
    except OverflowError:
        return False


def name_first(values: Sequence[Any], limit: int = 5) -> str:
    """The first values for a message."""
    more = ", ..." if len(values) > limit else ""
    return ", ".join(map(repr, values[:limit])) + more


def _check_entries(entries: Iterable[Any], what: str, keys: Iterable[str], json_file: str) -> None:
    seen = set()
    for index, entry in enumerate(entries):
        missing = [key for key in keys if not isinstance(entry, dict) or key not in entry]
        if missing:
            place = f"{what} id {entry['id']}" if "id" not in missing else f"{what} number {index}"
            raise ValueError(f"{place} of {json_file} has no '{missing[0]}'")
        number = entry["id"]
        if not _is_id(number):
            raise ValueError(
                f"{what} number {index} of {json_file} has the id {_cut(number)}; it must be an "
                "integer of less than 16 digits, or text"
            )
        if number in seen:
            raise ValueError(f"{what} id {number} occurs more than once in {json_file}")
        seen.add(number)


def _check_categories(categories: Sequence[Mapping[str, Any]], json_file: str) -> None:
    for category in categories:
        if type(category["id"]) is not int:
            raise ValueError(
                f"category id {category['id']!r} of {json_file} must be an integer, as must the "
                "category_id of the annotations"
            )
        if not isinstance(category["name"], str) or not category["name"]:
            raise ValueError(
                f"category id {category['id']} of {json_file} has the name {category['name']!r}; "
                "it must be text"
            )


def _check_images(images: Sequence[Mapping[str, Any]], json_file: str) -> None:
    kinds = {isinstance(image["id"], str) for image in images}
    if len(kinds) > 1:
        raise ValueError(f"{json_file} has image ids that are text and others that are numbers")
    for image in images:
        place, size = f"image id {image['id']} of {json_file}", (image["width"], image["height"])
        if not isinstance(image["file_name"], str) or not image["file_name"]:
            raise ValueError(f"{place} has the file_name {image['file_name']!r}; it must be a path")
        if not (all(map(is_number, size)) and all(map(is_finite, size)) and min(size) > 0):
            raise ValueError(
                f"{place} has the (width, height) {_cut(size)}; both must be positive numbers"
            )


def _is_id(value: Any) -> bool:
    if isinstance(value, float):
        return value.is_integer() and abs(value) < MAX_ID
    return isinstance(value, str) or (is_number(value) and abs(value) < MAX_ID)


def _cut(value: Any, limit: int = 60) -> str:
    text = repr(value)
    return text if len(text) <= limit else f"{text[:limit]}..."
