"""Recognises the format of a data folder and reads it."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from . import coco, pascal_voc, yolo
from .records import AnnotatedImages, DataFolder
from .validation_split import split_validation

_SHOWN = 5


def read_data_folder(folder: str | Path, cache_dir: str | Path) -> DataFolder:
    """Recognise a folder of images with annotations, and give its splits in COCO format.

    COCO files are taken as they are. Those of YOLO and Pascal VOC are converted by the library
    ``supervision`` (extra ``data``); the three formats of the same data give the same boxes.
    Without a validation split 20 % of the training images become it, which a line of the log says.
    What is written lies in a folder of ``cache_dir`` with a name made of the path of the data, so
    that no other data ever replaces it.

    Args:
        folder: the user's data.
        cache_dir: for the annotation files that are written.

    Raises:
        ValueError: the folder is not recognised, which names what was looked for, or a file in it
            is malformed.
    """
    folder = Path(folder)
    cache = Path(cache_dir, hashlib.sha256(os.fsencode(folder.resolve())).hexdigest()[:16])
    if not folder.is_dir():
        fault = "is a file" if folder.exists() else "does not exist"
        raise ValueError(f"the data folder {folder} {fault}; name a folder of images and labels")
    name, splits, class_names = _read(folder, cache)
    if "train" in splits and "val" not in splits:
        splits["train"], splits["val"] = split_validation(splits["train"], cache)
    return DataFolder(name, splits.get("train"), splits.get("val"), splits.get("test"), class_names)


def _read(folder: Path, cache: Path) -> tuple[str, dict[str, AnnotatedImages], tuple[str, ...]]:
    if files := coco.find_annotation_files(folder):
        return "COCO", *coco.read_coco_folder(folder, files)
    found = yolo.find_yolo(folder)
    if found is not None:
        return "YOLO", *yolo.read_yolo_folder(folder, found, cache)
    if parts := pascal_voc.find_voc(folder):
        return "Pascal VOC", *pascal_voc.read_voc_folder(folder, parts, cache)
    entries = sorted(path.name for path in folder.iterdir())
    more = ", ..." if len(entries) > _SHOWN else ""
    raise ValueError(
        f"{folder} is no data set that is known: it holds "
        f"{', '.join(entries[:_SHOWN]) or 'nothing'}{more}. Looked for {coco.EXPECTED}; "
        f"{yolo.EXPECTED}; {pascal_voc.EXPECTED}"
    )
