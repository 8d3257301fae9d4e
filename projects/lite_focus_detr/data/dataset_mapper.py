"""Turns a record of a data set into the input of the detector, with DETR's augmentation."""

from __future__ import annotations

import copy
import logging
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetMapper, detection_utils
from detectron2.data import transforms as T
from detectron2.structures import BoxMode
from detectron2.utils.file_io import PathManager
from PIL import Image, ImageOps

from .coco_json import box_fault

logger = logging.getLogger(__name__)

CROP_PROBABILITY = 0.5


class DetrDatasetMapper(DatasetMapper):
    """detectron2's mapper with the augmentation of DETR (https://arxiv.org/abs/2005.12872).

    Built as ``DetrDatasetMapper(cfg, is_train)``. Annotations are transformed and filtered by
    detectron2: crowds and boxes that a crop has emptied are left out. So are, before that, invalid
    boxes, which data sets registered by code may have; each reason is logged once.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._reported: set[str] = set()

    @classmethod
    def from_config(cls, cfg: CfgNode, is_train: bool = True) -> dict[str, Any]:
        """Arguments of the constructor of :class:`DatasetMapper` for a configuration."""
        return {
            "is_train": is_train,
            "augmentations": build_augmentation(cfg, is_train),
            "image_format": cfg.INPUT.FORMAT,
        }

    def __call__(self, dataset_dict: dict[str, Any]) -> dict[str, Any]:
        """Read and transform one image.

        Args:
            dataset_dict: record in detectron2's format, not modified; only ``file_name`` is
                needed for inference.

        Returns:
            The record with ``image`` (C, H, W) uint8 in the configured channel order, ``height``
            and ``width`` of the file in pixels and, in training, ``instances`` with ``gt_boxes``
            (xyxy in pixels of ``image``) and ``gt_classes``.

        Raises:
            RuntimeError: the image cannot be read; names the file.
        """
        record = copy.deepcopy(dataset_dict)
        image = read_image(record["file_name"], self.image_format)
        detection_utils.check_image_size(record, image)
        augmented = T.AugInput(image)
        transforms = self.augmentations(augmented)
        image = np.ascontiguousarray(augmented.image.transpose(2, 0, 1))
        record["image"] = torch.from_numpy(image)
        if not self.is_train:
            record.pop("annotations", None)
        elif "annotations" in record:
            record["annotations"] = self._valid_annotations(record)
            self._transform_annotations(record, transforms, image.shape[1:])
        return record

    def _valid_annotations(self, record: dict[str, Any]) -> list[dict[str, Any]]:
        """Without invalid boxes: the transform would swap their sides and hide the error."""
        valid = []
        for annotation in record["annotations"]:
            bbox, mode = annotation["bbox"], annotation["bbox_mode"]
            left, top, right, bottom = BoxMode.convert(bbox, mode, BoxMode.XYXY_ABS)
            sides = (left, top, right - left, bottom - top)
            reason = box_fault(sides, record["width"], record["height"])
            if reason is None:
                valid.append(annotation)
            elif reason not in self._reported:
                self._reported.add(reason)
                logger.warning(
                    "Annotations are ignored: %s (first %s in %s; more are not reported)",
                    *(reason, bbox, record["file_name"]),
                )
        return valid


def build_augmentation(cfg: CfgNode, is_train: bool) -> list[T.Augmentation]:
    """Flip, then resize, or in half of the cases resize, crop and resize; inference: resize."""
    resize_class = {"nearest": T.ResizeShortestEdge, "down": ResizeShortestEdgeDown}
    resize = resize_class[cfg.INPUT.RESIZE_ROUNDING]
    if not is_train:
        return [resize(cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST, "choice")]
    augmentations = []
    if cfg.INPUT.RANDOM_FLIP != "none":
        vertical = cfg.INPUT.RANDOM_FLIP == "vertical"
        augmentations.append(T.RandomFlip(horizontal=not vertical, vertical=vertical))
    if cfg.INPUT.CROP.ENABLED:
        crop = T.AugmentationList(
            [
                resize(cfg.INPUT.CROP.RESIZE, sample_style="choice"),
                T.RandomCrop(cfg.INPUT.CROP.TYPE, cfg.INPUT.CROP.SIZE),
            ]
        )
        augmentations.append(T.RandomApply(crop, CROP_PROBABILITY))
    augmentations.append(
        resize(
            cfg.INPUT.MIN_SIZE_TRAIN,
            cfg.INPUT.MAX_SIZE_TRAIN,
            cfg.INPUT.MIN_SIZE_TRAIN_SAMPLING,
        )
    )
    return augmentations


class ResizeShortestEdgeDown(T.ResizeShortestEdge):
    """Resize as the code of the original DETR does.

    The long side is truncated to whole pixels. If it would exceed the maximum, the short side is
    the one that is rounded, and the long side follows from it.
    """

    def get_transform(self, image: npt.NDArray[Any]) -> T.Transform:
        """Transform of an image (H, W, C)."""
        height, width = image.shape[:2]
        if self.is_range:
            low, high = self.short_edge_length
            short_edge = int(np.random.randint(low, high + 1))
        else:
            short_edge = int(np.random.choice(self.short_edge_length))
        if short_edge == 0:
            return T.NoOpTransform()
        new_height, new_width = self.get_output_shape(height, width, short_edge, self.max_size)
        return T.ResizeTransform(height, width, new_height, new_width, self.interp)

    @staticmethod
    def get_output_shape(
        oldh: int, oldw: int, short_edge_length: int, max_size: int
    ) -> tuple[int, int]:
        """Height and width in pixels after the resize."""
        short, long = min(oldh, oldw), max(oldh, oldw)
        if long / short * short_edge_length > max_size:
            short_edge_length = max(1, round(max_size * short / long))
        new_long = int(short_edge_length * long / short)
        return (new_long, short_edge_length) if oldh > oldw else (short_edge_length, new_long)


def read_image(path: str, image_format: str) -> npt.NDArray[np.uint8]:
    """Read an image, turned upright by its EXIF tag, as (H, W, 3) in "RGB" or "BGR" order.

    Images of 16 bits per channel are scaled to 8 bits.

    Raises:
        RuntimeError: the file is missing, truncated or not an image; names the file.
    """
    try:
        with PathManager.open(path, "rb") as file:
            image: Image.Image = ImageOps.exif_transpose(Image.open(file))
            if image.mode.startswith("I;16"):
                # Image.convert would clip everything above 255 to white.
                image = Image.fromarray((np.asarray(image) // 256).astype(np.uint8))
            return np.asarray(detection_utils.convert_PIL_to_numpy(image, image_format))
    except (OSError, SyntaxError) as error:
        raise RuntimeError(f"cannot read image {path}: {error}") from error
