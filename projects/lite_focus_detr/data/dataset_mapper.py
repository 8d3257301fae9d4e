"""Turns a record of a data set into the input of the detector, with DETR's augmentation."""

from __future__ import annotations

import copy
import logging
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetMapper
from detectron2.data import transforms as T
from detectron2.structures import BoxMode

from .coco_json import box_fault
from .errors import UnreadableImage
from .image_file import read_image, size_fault
from .worker_watch import note_image

logger = logging.getLogger(__name__)

CROP_PROBABILITY = 0.5
# Of the images of a data set; more unreadable ones are a fault of the set.
MAX_UNREADABLE = 0.01

Record = dict[str, Any]


class DetrDatasetMapper(DatasetMapper):
    """detectron2's mapper with the augmentation of DETR (https://arxiv.org/abs/2005.12872).

    Built as ``DetrDatasetMapper(cfg, is_train)``. Annotations are transformed and filtered by
    detectron2: crowds and boxes that a crop has emptied are left out. So are, before that, invalid
    boxes, which data sets registered by code may have; each reason is logged once.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._reported: set[str] = set()
        self._unreadable: set[str] = set()
        self._max_unreadable = 0

    @classmethod
    def from_config(cls, cfg: CfgNode, is_train: bool = True) -> dict[str, Any]:
        """Arguments of the constructor of :class:`DatasetMapper` for a configuration."""
        return {
            "is_train": is_train,
            "augmentations": build_augmentation(cfg, is_train),
            "image_format": cfg.INPUT.FORMAT,
        }

    def skip_unreadable(self, num_images: int) -> None:
        """From now on return None for an image that cannot be read, and log it.

        Args:
            num_images: of the data set; more unreadable ones than 1 % of them, but at least one,
                are an error.
        """
        self._max_unreadable = max(1, int(MAX_UNREADABLE * num_images))

    def __call__(self, dataset_dict: Record) -> Any:
        """Read and transform one image.

        Args:
            dataset_dict: record in detectron2's format, not modified; only ``file_name`` is
                needed for inference.

        Returns:
            The record with ``image`` (C, H, W) uint8 in the configured channel order, ``height``
            and ``width`` of the file in pixels and, in training, ``instances`` with ``gt_boxes``
            (xyxy in pixels of ``image``) and ``gt_classes``. None for an unreadable image, if it
            is to be skipped: the loader takes another one.

        Raises:
            UnreadableImage: the image cannot be read, or has not the size of the record; names the
                file and the image id.
        """
        try:
            return self._transform(dataset_dict)
        except UnreadableImage as error:
            if self._max_unreadable == 0:
                raise
            self._count_unreadable(dataset_dict["file_name"], error)
        return None

    def map_array(self, image: npt.NDArray[np.uint8]) -> Record:
        """The input of a detector for an image that is in memory, without augmentation.

        Args:
            image: (H, W, 3) in the configured channel order.

        Returns:
            ``image`` (C, H', W') and ``height`` and ``width`` of the array.
        """
        augmented = T.AugInput(image)
        self.augmentations(augmented)
        height, width = image.shape[:2]
        return {"image": _to_tensor(augmented.image), "height": height, "width": width}

    def _count_unreadable(self, file_name: str, error: UnreadableImage) -> None:
        if file_name in self._unreadable:
            return
        self._unreadable.add(file_name)
        count = len(self._unreadable)
        if count > self._max_unreadable:
            raise UnreadableImage(
                f"{error}; it is number {count}, and INPUT.SKIP_UNREADABLE accepts "
                f"{self._max_unreadable} of DATASETS.TRAIN (1 %)"
            ) from error
        logger.warning(
            "%s; INPUT.SKIP_UNREADABLE: another image takes its place (%d skipped)", error, count
        )

    def _transform(self, dataset_dict: Record) -> Record:
        record = copy.deepcopy(dataset_dict)
        note_image(record["file_name"])
        image = self._read(record)
        augmented = T.AugInput(image)
        transforms = self.augmentations(augmented)
        record["image"] = _to_tensor(augmented.image)
        if not self.is_train:
            record.pop("annotations", None)
        elif "annotations" in record:
            record["annotations"] = self._valid_annotations(record)
            self._transform_annotations(record, transforms, record["image"].shape[1:])
        return record

    def _read(self, record: Record) -> npt.NDArray[np.uint8]:
        """The image of a record, which gets its size if it has none."""
        path = record["file_name"]
        try:
            image = read_image(path, self.image_format)
            size = image.shape[1], image.shape[0]
            record.setdefault("width", size[0])
            record.setdefault("height", size[1])
            width, height = record["width"], record["height"]
            if (width, height) != size:
                raise UnreadableImage(f"{path} {size_fault(path, width, height, size)}")
        except UnreadableImage as error:
            number = f" (image id {record['image_id']})" if "image_id" in record else ""
            raise UnreadableImage(f"{error}{number}") from error
        return image

    def _valid_annotations(self, record: dict[str, Any]) -> list[dict[str, Any]]:
        """Without invalid boxes: the transform would swap their sides and hide the error."""
        valid = []
        for annotation in record["annotations"]:
            bbox, mode = annotation["bbox"], annotation["bbox_mode"]
            left, top, right, bottom = BoxMode.convert(bbox, mode, BoxMode.XYXY_ABS)
            sides = (left, top, right - left, bottom - top)
            reason = box_fault(sides, record["width"], record["height"])
            if reason is None:
                # detectron2 resizes whole numbers to whole numbers.
                valid.append({**annotation, "bbox": [float(number) for number in bbox]})
            elif reason not in self._reported:
                self._reported.add(reason)
                logger.warning(
                    "Annotations are ignored: %s (first %s in %s; more are not reported)",
                    *(reason, bbox, record["file_name"]),
                )
        return valid


def _to_tensor(image: npt.NDArray[np.uint8]) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))


def build_augmentation(cfg: CfgNode, is_train: bool) -> list[T.Augmentation]:
    """Flip, then resize, or in half of the cases resize, crop and resize; inference: resize."""
    resize = RESIZES[cfg.INPUT.RESIZE_ROUNDING]
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


#: By ``INPUT.RESIZE_ROUNDING``.
RESIZES = {"nearest": T.ResizeShortestEdge, "down": ResizeShortestEdgeDown}
