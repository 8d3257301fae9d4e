"""Checks of the configured data sets, before a model is built."""

from __future__ import annotations

import logging
import os
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, Metadata, MetadataCatalog

from ..config.suggestions import did_you_mean
from ..modeling.postprocess import COCO_IDS
from ..screen import screen
from .dataset_mapper import MAX_UNREADABLE
from .errors import UnreadableImage
from .image_file import size_fault
from .registration import ShapesSource

logger = logging.getLogger(__name__)

# Files of a data set whose header is read; those between them are checked when they are read.
MAX_HEADERS = 5000
# Faults that are shown.
SHOWN = 5

Record = dict[str, Any]


def check_datasets(cfg: CfgNode, *, eval_only: bool = False) -> None:
    """Check that the data sets are registered, their class count, and the images of the test sets.

    The images of the training sets are checked by :func:`check_training_images`, when they have
    been read; generated data sets are drawn when they are first used.

    Args:
        cfg: complete configuration, after ``register_datasets``.
        eval_only: look at ``DATASETS.TEST`` only.

    Raises:
        ValueError: names the data set, the file or the two class counts, and the key to change.
    """
    key = "DATASETS.TEST" if eval_only else "DATASETS.TRAIN"
    if not cfg.DATASETS.TEST if eval_only else not cfg.DATASETS.TRAIN:
        raise ValueError(f"{key} is empty; name a data set in it")
    for name in _names(cfg, eval_only):
        if name not in DatasetCatalog:
            raise ValueError(
                f"data set {name!r} of DATASETS is not registered"
                f"{did_you_mean(name, DatasetCatalog)}; your own go into DATASETS.COCO "
                "as [name, json, images]"
            )
        _check_files(name)
    check_num_classes(cfg, eval_only=eval_only)
    for name in cfg.DATASETS.TEST or ():
        if not isinstance(DatasetCatalog.data[name], ShapesSource):
            _check_test_set(cfg, name)


def check_training_images(cfg: CfgNode, records: Sequence[Record]) -> None:
    """Check the images of the training sets, and warn of more objects than queries.

    With ``INPUT.SKIP_UNREADABLE`` faults of at most 1 % of the images are a warning.

    Args:
        cfg: complete configuration.
        records: of ``DATASETS.TRAIN``.

    Raises:
        ValueError: as :func:`check_images`.
    """
    name = ", ".join(cfg.DATASETS.TRAIN)
    check_images(name, records, may_skip=cfg.INPUT.SKIP_UNREADABLE)
    _show_size("Training data", name, records)
    _check_crowds(name, records, "MODEL.DETR.NUM_QUERIES", cfg.MODEL.DETR.NUM_QUERIES)


def check_num_classes(cfg: CfgNode, *, eval_only: bool = False) -> None:
    """Check ``MODEL.DETR.NUM_CLASSES`` against the categories of every data set.

    The 91 rows of ``MODEL.DETR.COCO_ID_ROWS`` go with the 80 COCO categories only.

    Raises:
        ValueError: names both numbers, the annotation file and the line to change.
    """
    num_classes, coco_id_rows = cfg.MODEL.DETR.NUM_CLASSES, cfg.MODEL.DETR.COCO_ID_ROWS
    for name in _names(cfg, eval_only):
        metadata = _loaded_metadata(name)
        count = len(metadata.thing_classes)
        if _has_coco_categories(metadata) if coco_id_rows else count == num_classes:
            continue
        # A repaired copy may stand in for the user's file.
        json_file = getattr(DatasetCatalog.data[name], "json_file", metadata.get("json_file"))
        rows = "COCO ids (MODEL.DETR.COCO_ID_ROWS)" if coco_id_rows else str(num_classes)
        remedy = "MODEL.DETR.COCO_ID_ROWS False " if coco_id_rows else ""
        raise ValueError(
            f"MODEL.DETR.NUM_CLASSES is {rows}, but data set {name} ({json_file}) "
            f"has {count} categories; set {remedy}MODEL.DETR.NUM_CLASSES {count}"
        )


def check_images(name: str, records: Sequence[Record], *, may_skip: bool = False) -> None:
    """Check that the images of a data set exist and have the sizes that it says.

    All of them must be there. The headers of up to 5,000, evenly spaced, are read.

    Args:
        name: of the data set, for messages.
        records: in detectron2's format.
        may_skip: faults of at most 1 % of the images, but at least of one, are a warning.

    Raises:
        ValueError: says how many images are wrong, and what is wrong with the first five.
    """
    faults, checked = _image_faults(records)
    if not faults:
        return
    some = f" (sizes of {checked} were looked at)" if len(records) > MAX_HEADERS else ""
    more = f"; and {len(faults) - SHOWN} more" if len(faults) > SHOWN else ""
    message = (
        f"{len(faults)} of the {len(records)} images of data set {name} cannot be used{some}: "
        f"{'; '.join(faults[:SHOWN])}{more}"
    )
    if not may_skip or len(faults) > max(1, MAX_UNREADABLE * len(records)):
        raise ValueError(message)
    logger.warning("%s. INPUT.SKIP_UNREADABLE: others take their place", message)


def _image_faults(records: Sequence[Record]) -> tuple[list[str], int]:
    """What is wrong with the images, and how many headers were read."""
    local = [record for record in records if "://" not in record["file_name"]]
    missing = missing_files(record["file_name"] for record in local)
    faults = [f"{path} does not exist" for path in sorted(missing)]
    step = 1 + (len(local) - 1) // MAX_HEADERS
    checked = [record for record in local[::step] if record["file_name"] not in missing]
    faults += [fault for record in checked if (fault := _image_fault(record)) is not None]
    return faults, len(checked)


def _image_fault(record: Record) -> str | None:
    path = record["file_name"]
    try:
        fault = size_fault(path, record["width"], record["height"])
    except UnreadableImage as error:
        return str(error)
    return None if fault is None else f"{path} {fault}"


def missing_files(paths: Iterable[str]) -> set[str]:
    """Those that are no files.

    Each folder is listed once: a look at each file takes minutes where it goes over a network.
    """
    folders: defaultdict[str, dict[str, str]] = defaultdict(dict)
    for path in paths:
        folder, name = os.path.split(path)
        folders[folder][name] = path
    missing = set()
    for folder, wanted in folders.items():
        found = set()
        if os.path.isdir(folder or "."):
            with os.scandir(folder or ".") as entries:
                found = {entry.name for entry in entries if _is_file(entry)}
        missing |= {path for name, path in wanted.items() if name not in found}
    return missing


def _is_file(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_file()
    except OSError:  # a link that leads to itself
        return False


def _check_test_set(cfg: CfgNode, name: str) -> None:
    records = DatasetCatalog.get(name)
    check_images(name, records)
    _show_size("Evaluation data", name, records)
    if not any(record.get("annotations") for record in records):
        logger.warning("Data set %s has no objects to find: its AP will be nan", name)
    for key, limit in (
        ("MODEL.DETR.NUM_QUERIES", cfg.MODEL.DETR.NUM_QUERIES),
        ("TEST.DETECTIONS_PER_IMAGE", cfg.TEST.DETECTIONS_PER_IMAGE),
    ):
        _check_crowds(name, records, key, limit)


def _show_size(what: str, name: str, records: Sequence[Record]) -> None:
    objects = sum(len(record.get("annotations", ())) for record in records)
    screen.info("%s: %s, %d images, %d objects", what, name, len(records), objects)


def _check_crowds(name: str, records: Sequence[Record], key: str, limit: int) -> None:
    """Warn once of images in which not all objects can be found."""
    counts = {record["file_name"]: len(record.get("annotations", ())) for record in records}
    crowded = crowded_images(counts, limit)
    if crowded:
        logger.warning(
            "%d images of data set %s have more objects than %s %d, up to %d (%s): those beyond it "
            "are never found; raise it",
            *(len(crowded), name, key, limit, counts[crowded[0]], crowded[0]),
        )


def crowded_images(counts: Mapping[str, int], limit: int) -> list[str]:
    """Images with more objects than can be found, those with most first.

    Args:
        counts: objects by image.
        limit: that can be found.
    """
    crowded = [image for image, count in counts.items() if count > limit]
    return sorted(crowded, key=lambda image: -counts[image])


def _names(cfg: CfgNode, eval_only: bool) -> list[str]:
    train = () if eval_only else tuple(cfg.DATASETS.TRAIN or ())
    return list(dict.fromkeys((*train, *(cfg.DATASETS.TEST or ()))))


def _check_files(name: str) -> None:
    metadata = MetadataCatalog.get(name)
    if isinstance(DatasetCatalog.data[name], ShapesSource):
        return  # drawn when first used
    for attribute, what in (("json_file", "annotation file"), ("image_root", "image folder")):
        path = metadata.get(attribute)
        if path is not None and not os.path.exists(path):
            raise ValueError(
                f"{what} {path} of data set {name} does not exist; correct the path in "
                "DATASETS.COCO, or DETECTRON2_DATASETS for detectron2's own data sets"
            )


def _loaded_metadata(name: str) -> Metadata:
    """Metadata with class names; those of a user's data set are known once it has been read."""
    metadata = MetadataCatalog.get(name)
    if not hasattr(metadata, "thing_classes"):
        DatasetCatalog.get(name)
    return metadata


def _has_coco_categories(metadata: Metadata) -> bool:
    return set(metadata.get("thing_dataset_id_to_contiguous_id", ())) == set(COCO_IDS)
