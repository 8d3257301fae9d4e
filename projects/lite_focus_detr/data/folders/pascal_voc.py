"""Reads folders in Pascal VOC format: for each image an XML file with corners from 1."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from xml.etree import ElementTree

import numpy as np

from .conversion import load, supervision, write_coco
from .layout import has_files, images_of, split_folders
from .records import AnnotatedImages

#: For the message about a folder that is not recognised.
EXPECTED = (
    "Pascal VOC: JPEGImages/, Annotations/*.xml and ImageSets/Main/*.txt, or *.xml beside the "
    "images"
)
_ANNOTATIONS = ("Annotations", "annotations", "labels", ".")
_IMAGES = ("JPEGImages", "images", ".")


class VocPart(NamedTuple):
    """Images and XML files that belong together; ``split`` is None where lists say it."""

    split: str | None
    images: Path
    annotations: Path


def find_voc(folder: Path) -> list[VocPart]:
    """The parts of a folder in Pascal VOC format; none if it is of another.

    Raises:
        ValueError: two folders are of one split; names both.
    """
    whole = _find_part(None, folder)
    if whole is not None:
        return [whole]
    parts: dict[str, VocPart] = {}
    places: dict[str, Path] = {}
    for split, place in split_folders(folder):
        part = _find_part(split, place)
        if part is None:
            continue
        if split in parts:
            raise ValueError(
                f"{folder} has two folders of the split {split}, {places[split]} and {place}; "
                "move one of them away, or put all files into one"
            )
        parts[split], places[split] = part, place
    return list(parts.values())


def read_voc_folder(
    folder: Path, parts: Sequence[VocPart], cache: Path
) -> tuple[dict[str, AnnotatedImages], tuple[str, ...]]:
    """The splits of a folder in Pascal VOC format as COCO annotation files, and the class names.

    Class names are sorted. An image without an XML file has no objects. As in the evaluation of
    Pascal VOC, ``difficult`` objects need not be found: they become ``iscrowd``.

    Args:
        folder: with the data.
        parts: of :func:`find_voc`.
        cache: folder for the annotation files.

    Raises:
        ValueError: a file is malformed, or a list names an image that is not there; names it.
    """
    loaded = [_load_part(part) for part in parts]
    names = sorted({name for dataset in loaded for name in dataset.classes})
    if not names:
        raise ValueError(f"the XML files of {folder} hold no object")
    splits = {}
    for part, dataset in zip(parts, loaded, strict=True):
        order = np.array([names.index(name) for name in dataset.classes], dtype=int)
        for detections in dataset.annotations.values():
            detections.class_id = order[detections.class_id]
        for split, paths in _paths_by_split(folder, part, dataset.annotations).items():
            annotations = {path: dataset.annotations[path] for path in paths}
            json_file = cache / f"pascal_voc_{split}.json"
            splits[split] = write_coco(names, annotations, part.images, json_file)
    return splits, tuple(names)


def _find_part(split: str | None, folder: Path) -> VocPart | None:
    labels = [folder / name for name in _ANNOTATIONS if has_files(folder / name, ".xml")]
    images = [folder / name for name in _IMAGES if images_of(folder / name)]
    return VocPart(split, images[0], labels[0]) if images and labels else None


def _load_part(part: VocPart) -> Any:
    dataset = load(
        supervision().DetectionDataset.from_pascal_voc,
        part.images,
        annotations_directory_path=str(part.annotations),
    )
    for path, detections in dataset.annotations.items():
        objects = _objects(part.annotations / f"{Path(path).stem}.xml")
        difficult = [item.findtext("difficult", "0").strip() == "1" for item in objects]
        detections.data["iscrowd"] = np.array(difficult, dtype=int)
        # supervision takes corners in the wrong order for each other, also those of no pixel.
        without_area = np.array([_has_no_pixel(item) for item in objects], dtype=bool)
        detections.xyxy[without_area, 2:] = detections.xyxy[without_area, :2]
    return dataset


def _objects(path: Path) -> list[Any]:
    # supervision has read the file before, and would have refused entities.
    return list(ElementTree.parse(path).findall("object")) if path.is_file() else []


def _has_no_pixel(item: Any) -> bool:
    """Whether the last pixel of an object, which belongs to it, is the one before the first."""
    sides = (("xmin", "xmax"), ("ymin", "ymax"))
    corners = [[float(item.findtext(f"bndbox/{end}")) for end in side] for side in sides]
    return any(last == first - 1 for first, last in corners)


def _paths_by_split(
    folder: Path, part: VocPart, annotations: Mapping[str, Any]
) -> dict[str, list[str]]:
    if part.split is not None:
        return {part.split: list(annotations)}
    lists = {
        name: folder / "ImageSets" / "Main" / f"{name}.txt"
        for name in ("train", "trainval", "val", "test")
    }
    by_stem = {Path(path).stem: path for path in annotations}
    splits = {name: _listed(path, by_stem, part) for name, path in lists.items() if path.is_file()}
    both = splits.pop("trainval", None)
    if both and "train" not in splits:
        splits["train"] = [path for path in both if path not in splits.get("val", ())]
    return {name: paths for name, paths in splits.items() if paths} or {"train": list(annotations)}


def _listed(listing: Path, by_stem: Mapping[str, str], part: VocPart) -> list[str]:
    lines = filter(str.split, listing.read_text(encoding="utf-8").splitlines())
    stems = [line.split()[0] for line in lines]
    missing = [stem for stem in stems if stem not in by_stem]
    if missing:
        raise ValueError(f"{listing} names {missing[0]}, but {part.images} has no such image")
    return [by_stem[stem] for stem in stems]
