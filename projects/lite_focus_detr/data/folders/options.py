"""A data folder as configuration."""

from __future__ import annotations

import re
from pathlib import Path

from ..registration import is_taken
from .records import DataFolder


def folder_options(found: DataFolder, folder: str | Path, *, test: str = "val") -> list[str]:
    """``KEY VALUE ...`` that make a folder the data sets of a configuration.

    The data sets are called ``FOLDER_train`` and so on, or ``FOLDER_data_train`` if that is one of
    detectron2.

    Args:
        found: of ``read_data_folder``.
        folder: that was read.
        test: split to evaluate on.

    Raises:
        ValueError: the folder has no such split.
    """
    name = re.sub(r"[^\w.-]+", "_", Path(folder).resolve().name).strip(".") or "data"
    splits = found.splits
    if test not in splits:
        raise ValueError(f"{folder} has no split {test}; it has {', '.join(splits)}")
    while any(is_taken(f"{name}_{split}") for split in splits):
        name += "_data"
    entries = [[f"{name}_{key}", x.json_file, x.image_root] for key, x in splits.items()]
    train = (f"{name}_train",) if found.train else ()
    return [
        *("DATASETS.COCO", repr(entries)),
        *("DATASETS.TRAIN", repr(train)),
        *("DATASETS.TEST", repr((f"{name}_{test}",))),
        *("MODEL.DETR.NUM_CLASSES", str(len(found.class_names))),
    ]
