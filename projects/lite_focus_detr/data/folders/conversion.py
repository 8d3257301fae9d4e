"""Annotations that the library ``supervision`` has read, written as COCO files."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from ..coco_json import write_json
from .records import AnnotatedImages

# Relative to the side of an image: texts of five decimals say a corner as exactly as this.
_ROUNDING = 1e-5


def supervision() -> ModuleType:
    """The library, imported when it is needed.

    Raises:
        ValueError: it is not installed.
    """
    try:
        import supervision as library
    except ModuleNotFoundError as error:
        raise ValueError(
            f"folders in YOLO and Pascal VOC format need the package {error.name}: "
            "pip install 'lite-focus-detr[data]'"
        ) from error
    return library


def load(loader: Callable[..., Any], images: Path, **arguments: Any) -> Any:
    """Call a loader of ``supervision.DetectionDataset`` for the images of a folder.

    Args:
        loader: ``from_yolo`` or ``from_pascal_voc``.
        images: folder of the images.
        arguments: of the loader.

    Raises:
        ValueError: something cannot be read.
    """
    try:
        return loader(images_directory_path=str(images), **arguments)
    except (OSError, ValueError, SyntaxError) as error:
        line = str(error).replace("\n", " ")
        raise ValueError(f"cannot read the annotations of {images}: {line}") from error


def write_coco(
    class_names: Sequence[str], annotations: Mapping[str, Any], image_root: Path, json_file: Path
) -> AnnotatedImages:
    """Write a COCO annotation file with the category ids 1, 2, ... and with boxes, but no masks.

    A corner that is a whole pixel but for the rounding of numbers becomes one, so that all formats
    of the same data give the same boxes.

    Args:
        class_names: in the order of the class indices.
        annotations: ``supervision.Detections`` by the paths of their images.
        image_root: folder above all images.
        json_file: to write.

    Raises:
        ValueError: two images have the same name, or an image cannot be read.
    """
    for detections in annotations.values():
        detections.mask = None
    paths = sorted(annotations)
    dataset = supervision().DetectionDataset(list(class_names), paths, dict(annotations))
    with tempfile.TemporaryDirectory() as folder:
        written = os.path.join(folder, "coco.json")
        try:
            dataset.as_coco(annotations_path=written)
        except (OSError, ValueError) as error:
            raise ValueError(f"cannot convert the images of {image_root}: {error}") from error
        coco = json.loads(Path(written).read_bytes())
    for image, path in zip(coco["images"], paths, strict=True):
        image["file_name"] = Path(os.path.relpath(path, image_root)).as_posix()
    sizes = {image["id"]: (image["width"], image["height"]) for image in coco["images"]}
    for annotation in coco["annotations"]:
        box = whole_pixels(annotation["bbox"], *sizes[annotation["image_id"]])
        annotation |= {"bbox": box, "area": box[2] * box[3]}
    # The rest is a licence that nobody has given.
    content = {key: coco[key] for key in ("images", "annotations", "categories")}
    return AnnotatedImages(write_json(content, str(json_file)), str(image_root))


def whole_pixels(box: Iterable[float], width: int, height: int) -> list[float]:
    """A box (left, top, width, height) in pixels, its corners whole where they nearly are.

    Args:
        box: in pixels.
        width: of the image in pixels.
        height: of the image in pixels.
    """
    x, y, w, h = box
    x1, x2 = (_whole(value, width) for value in (x, x + w))
    y1, y2 = (_whole(value, height) for value in (y, y + h))
    return [x1, y1, x2 - x1, y2 - y1]


def _whole(value: float, size: int) -> float:
    return float(round(value)) if abs(value - round(value)) <= _ROUNDING * size else value
