"""Checks of the configured data sets, before a model is built."""

from __future__ import annotations

import os

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, Metadata, MetadataCatalog

from ..config.suggestions import did_you_mean
from ..modeling.postprocess import COCO_IDS
from .registration import ShapesSource


def check_datasets(cfg: CfgNode, *, eval_only: bool = False) -> None:
    """Check that the data sets are registered, that their files exist, and their class count.

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


def _names(cfg: CfgNode, eval_only: bool) -> list[str]:
    train = () if eval_only else tuple(cfg.DATASETS.TRAIN)
    return list(dict.fromkeys((*train, *cfg.DATASETS.TEST)))


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
