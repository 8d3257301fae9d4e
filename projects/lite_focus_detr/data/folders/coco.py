"""Recognises folders with COCO annotation files beside their images."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..coco_json import read_coco_json
from .layout import split_folders, split_of
from .records import SPLITS, AnnotatedImages

#: For the message about a folder that is not recognised.
EXPECTED = (
    "COCO: annotations/*.json or *.json beside the images, with train, val or test in their names, "
    "or train/_annotations.coco.json"
)
_ROBOFLOW = "_annotations.coco.json"
# Images of a file that are looked for.
_SAMPLES = 3


def find_annotation_files(folder: Path) -> dict[str, Path]:
    """COCO annotation files by their split; empty if the folder has none.

    A single file that names no split is "train".

    Raises:
        ValueError: two files are of one split; names both.
    """
    found: dict[str, Path] = {}
    for split, path in _candidates(folder):
        if split in found:
            raise ValueError(
                f"{folder} has two annotation files of the split {split}, {found[split]} and "
                f"{path}; move one of them away, or name the right one in DATASETS.COCO"
            )
        found[split] = path
    return {split: found[split] for split in SPLITS if split in found}


def _candidates(folder: Path) -> list[tuple[str, Path]]:
    exported = [(split, place / _ROBOFLOW) for split, place in split_folders(folder)]
    exported = [(split, path) for split, path in exported if path.is_file()]
    if exported:
        return exported
    files = _json_files(folder)
    named = [(split, path) for path in files if (split := split_of(path.stem)) is not None]
    return named if named or len(files) != 1 else [("train", files[0])]


def _json_files(folder: Path) -> list[Path]:
    files = sorted((folder / "annotations").glob("*.json"))
    # COCO's own folder also has captions and keypoints of the same images.
    instances = [path for path in files if path.name.startswith("instances")]
    beside = sorted(folder.glob("*.json"))
    return instances or files or [path for path in beside if _may_be_coco(path)]


def read_coco_folder(
    folder: Path, files: Mapping[str, Path]
) -> tuple[dict[str, AnnotatedImages], tuple[str, ...]]:
    """The splits of a COCO folder, and the class names in the order of their category ids.

    Args:
        folder: with the annotation files and images.
        files: of :func:`find_annotation_files`.

    Raises:
        ValueError: a file is malformed, its images are not found, or the categories of two files
            differ; names the files.
    """
    splits: dict[str, AnnotatedImages] = {}
    names: tuple[str, ...] = ()
    for split, path in files.items():
        dataset = read_coco_json(str(path))
        image_root = _find_image_root(folder, split, path, dataset)
        splits[split] = AnnotatedImages(str(path), str(image_root))
        categories = sorted(dataset["categories"], key=lambda category: category["id"])
        found = tuple(category["name"] for category in categories)
        if names and found != names:
            raise ValueError(
                f"the categories of {path} are {', '.join(found)}, those of "
                f"{next(iter(files.values()))} are {', '.join(names)}; all splits need the same, "
                "in the same order of ids"
            )
        names = found
    return splits, names


def _may_be_coco(path: Path) -> bool:
    try:
        dataset = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        return split_of(path.stem) is not None  # reading it says what is wrong
    return isinstance(dataset, dict) and {"images", "categories"} <= dataset.keys()


def _find_image_root(folder: Path, split: str, path: Path, dataset: Mapping[str, Any]) -> Path:
    images = dataset["images"]
    samples = [image["file_name"] for image in images[:: max(1, len(images) // _SAMPLES)]]
    inside = [place for name, place in split_folders(folder / "images") if name == split]
    beside = [place for name, place in split_folders(folder) if name == split]
    deeper = [place / "images" for place in beside]
    candidates = [path.parent, *inside, *deeper, *beside, folder / "images", folder]
    found = {place: sum((place / name).is_file() for name in samples) for place in candidates}
    best = max(candidates, key=found.__getitem__)
    if not found[best]:
        places = ", ".join(dict.fromkeys(str(place) for place in candidates if place.is_dir()))
        raise ValueError(
            f"the images of {path}, such as {samples[0]}, are in none of the folders {places}"
        )
    return best
