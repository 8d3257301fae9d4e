"""Reads folders in YOLO format: beside each image a text file of boxes relative to its size."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from ...config.safe_yaml import parse_yaml
from ..atomic_file import atomic_file
from .conversion import load, supervision, write_coco
from .layout import has_files, images_of, split_folders, split_of
from .records import AnnotatedImages

logger = logging.getLogger(__name__)

#: For the message about a folder that is not recognised.
EXPECTED = "YOLO: data.yaml with the names of the classes, or images/ and labels/ with classes.txt"
_NAMES = ("classes.txt", "labels/classes.txt", "obj.names")
_SPLIT_KEYS = ("train", "val", "valid", "validation", "test")


class YoloFolder(NamedTuple):
    """The file with the class names, if there is one, and its content if it is YAML."""

    names_file: Path | None
    content: dict[str, Any]


def find_yolo(folder: Path) -> YoloFolder | None:
    """What describes a folder in YOLO format, or None if it is of another.

    Raises:
        ValueError: a YAML file is malformed, or refused because of its size or its aliases.
    """
    for path in sorted([*folder.glob("*.yaml"), *folder.glob("*.yml")]):
        content = _read_yaml(path)
        if isinstance(content, dict) and "names" in content:
            return YoloFolder(path, content)
    labels = [place / "labels" for place in (folder, *(path for _, path in split_folders(folder)))]
    labels += [path for _, path in split_folders(folder / "labels")]
    if not any(has_files(place, ".txt") for place in labels):
        return None
    names_file = next((folder / name for name in _NAMES if (folder / name).is_file()), None)
    return YoloFolder(names_file, {})


def read_yolo_folder(
    folder: Path, found: YoloFolder, cache: Path
) -> tuple[dict[str, AnnotatedImages], tuple[str, ...]]:
    """The splits of a folder in YOLO format as COCO annotation files, and the class names.

    An image without a text file has no objects.

    Args:
        folder: with the data.
        found: of :func:`find_yolo`.
        cache: folder for the annotation files.

    Raises:
        ValueError: there are no images or no class names, or a file is malformed; names it.
    """
    data_yaml = _data_yaml(folder, found, cache)
    images = _images_by_split(folder, found)
    if not any(images.values()):
        raise ValueError(f"no images in {folder}, nor where {data_yaml} says that they are")
    places = sorted({path.parent for paths in images.values() for path in paths})
    loaded = [
        load(
            supervision().DetectionDataset.from_yolo,
            place,
            annotations_directory_path=str(_label_folder(place)),
            data_yaml_path=str(data_yaml),
        )
        for place in places
    ]
    annotations = {path: boxes for part in loaded for path, boxes in part.annotations.items()}
    names = tuple(loaded[0].classes)
    splits = {
        split: write_coco(
            names,
            {str(path): annotations[str(path)] for path in paths},
            Path(os.path.commonpath([path.parent for path in paths])),
            cache / f"yolo_{split}.json",
        )
        for split, paths in images.items()
    }
    return splits, names


def _read_yaml(path: Path) -> Any:
    try:
        return parse_yaml(path.read_text(encoding="utf-8"), str(path))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        line = str(error).replace("\n", " ")
        raise ValueError(f"{path} is not valid YAML: {line}") from error


def _data_yaml(folder: Path, found: YoloFolder, cache: Path) -> Path:
    """The user's data.yaml, or one of the names of ``classes.txt``."""
    if found.names_file is None:
        raise ValueError(
            f"{folder} has labels, but nothing names its classes: add classes.txt with one name in "
            "a line, or data.yaml with 'names: [first, second]'"
        )
    if found.content:
        return found.names_file
    names = [line.strip() for line in found.names_file.read_text(encoding="utf-8").splitlines()]
    data_yaml = cache / "yolo_names.yaml"
    with atomic_file(data_yaml) as file:
        yaml.safe_dump({"names": [name for name in names if name]}, file)
    return data_yaml


def _images_by_split(folder: Path, found: YoloFolder) -> dict[str, list[Path]]:
    """As the YAML file says, else by the names of the folders; without any all are "train"."""
    images: dict[str, list[Path]] = {}
    for key in _SPLIT_KEYS:
        values = found.content.get(key) or ()
        for value in (values,) if isinstance(values, str) else values:
            listed = _listed_images(folder, found.content, str(value))
            if listed:
                images.setdefault(str(split_of(key)), []).extend(listed)
            else:
                logger.warning("%s names %s for %s: no images there", found.names_file, value, key)
    if images:
        return images
    for split, place in (*split_folders(folder), *split_folders(folder / "images")):
        images.setdefault(split, []).extend(_images_below(place))
    return images if any(images.values()) else {"train": _images_below(folder)}


def _listed_images(folder: Path, content: dict[str, Any], value: str) -> list[Path]:
    """Images of a folder, or of a text file with one path in a line."""
    base = folder / str(content.get("path") or "")
    # Exports of Roboflow say ../train/images where train/images is meant.
    inside = Path(*(part for part in Path(value).parts if part != ".."))
    for place in (base / value, folder / value, folder / inside):
        if place.is_dir():
            return _images_below(place)
        if place.is_file():
            return list(_lines(place))
    return []


def _lines(listing: Path) -> Iterator[Path]:
    for line in filter(str.strip, listing.read_text(encoding="utf-8").splitlines()):
        path = Path(os.path.normpath(listing.parent / line.strip()))
        if not path.is_file():
            raise ValueError(f"{listing} names {line.strip()}, but there is no file {path}")
        yield path


def _images_below(place: Path) -> list[Path]:
    inside = place / "images"
    return images_of(inside if inside.is_dir() else place, below=True)


def _label_folder(images: Path) -> Path:
    """Where the text files of the images of a folder are."""
    parts = list(images.parts)
    candidates = []
    if "images" in parts:
        last = len(parts) - 1 - parts[::-1].index("images")
        candidates.append(Path(*parts[:last], "labels", *parts[last + 1 :]))
    candidates += [images, images.parent / "labels"]
    for place in candidates:
        if has_files(place, ".txt"):
            return place
    raise ValueError(
        f"the images of {images} have no labels: no text files in {', '.join(map(str, candidates))}"
    )
