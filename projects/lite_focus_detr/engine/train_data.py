"""The images of a training, and the stream of them that a process takes."""

from __future__ import annotations

from typing import Any

from detectron2.config import CfgNode
from detectron2.data import get_detection_dataset_dicts
from detectron2.utils import comm

from ..data import DetrDatasetMapper
from ..data.epoch_order import build_epoch_order
from ..data.training_stream import BatchLayout, TrainingStream
from ..data.validation import check_training_images


def training_images(cfg: CfgNode) -> list[dict[str, Any]]:
    """Read and check the records of ``DATASETS.TRAIN``.

    Raises:
        ValueError: there is no image to train with, or the images are not as their data set says.
    """
    filter_empty = cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS
    try:
        images: list[dict[str, Any]] = get_detection_dataset_dicts(
            cfg.DATASETS.TRAIN, filter_empty=filter_empty
        )
    except AssertionError as error:  # detectron2 asserts what the user gives
        remedy = "; set DATALOADER.FILTER_EMPTY_ANNOTATIONS False to keep images without objects"
        text = str(error).rstrip(".") + (remedy if filter_empty else "")
        raise ValueError(f"DATASETS.TRAIN {cfg.DATASETS.TRAIN}: {text}") from error
    check_training_images(cfg, images)
    return images


def build_train_stream(cfg: CfgNode, dataset: list[dict[str, Any]]) -> TrainingStream:
    """Return the endless stream of augmented images of this process.

    Args:
        cfg: complete configuration; with a negative ``SEED`` the processes agree on one.
        dataset: records of ``DATASETS.TRAIN``.

    Raises:
        ValueError: the batch size does not fit.
    """
    mapper = DetrDatasetMapper(cfg, is_train=True)
    if cfg.INPUT.SKIP_UNREADABLE:
        mapper.skip_unreadable(len(dataset))
    world_size, total = comm.get_world_size(), cfg.SOLVER.IMS_PER_BATCH
    if total % world_size:
        raise ValueError(
            f"SOLVER.IMS_PER_BATCH {total} cannot be divided among {world_size} processes"
        )
    seed = cfg.SEED if cfg.SEED >= 0 else comm.shared_random_seed()
    grouped = cfg.DATALOADER.ASPECT_RATIO_GROUPING
    return TrainingStream(
        dataset,
        mapper,
        order=build_epoch_order(cfg, dataset, seed=seed),
        layout=BatchLayout(total // world_size, world_size, grouped),
        rank=comm.get_rank(),
    )
