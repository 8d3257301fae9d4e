"""A validation split for data that has none."""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path, PurePosixPath
from typing import Any

from ..coco_json import read_coco_json, write_json
from .records import AnnotatedImages

logger = logging.getLogger(__name__)

_SHARE = 0.2


def split_validation(
    train: AnnotatedImages, cache: Path
) -> tuple[AnnotatedImages, AnnotatedImages]:
    """Keep 20 % of the images, at least one, for validation.

    A hash of their file names chooses them: the same in each run, and in each format of the data.

    Args:
        train: all images.
        cache: folder for the two annotation files.

    Returns:
        training and validation split.

    Raises:
        ValueError: there is one image only.
    """
    dataset = read_coco_json(train.json_file)
    images = sorted(dataset["images"], key=_rank)
    count = max(1, round(_SHARE * len(images)))
    if count == len(images):
        raise ValueError(f"{train.json_file} has one image; training and validation need one each")
    logger.info(
        "No validation split: %d of the %d images of %s are kept for it, chosen by their names",
        *(count, len(images), train.image_root),
    )
    val_ids = {image["id"] for image in images[:count]}
    written = [
        write_json(_part(dataset, val_ids, inside=inside), str(cache / f"split_{name}.json"))
        for name, inside in (("train", False), ("val", True))
    ]
    train_split, val_split = (AnnotatedImages(path, train.image_root) for path in written)
    return train_split, val_split


def _rank(image: dict[str, Any]) -> tuple[str, str]:
    name = str(image["file_name"])
    return hashlib.sha256(PurePosixPath(name).name.encode()).hexdigest(), name


def _part(dataset: dict[str, Any], ids: set[Any], *, inside: bool) -> dict[str, Any]:
    annotations = dataset.get("annotations", [])
    return {
        **dataset,
        "images": [image for image in dataset["images"] if (image["id"] in ids) == inside],
        "annotations": [a for a in annotations if (a["image_id"] in ids) == inside],
    }
