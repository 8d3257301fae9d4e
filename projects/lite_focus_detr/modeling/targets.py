"""Ground truth of a batch in the form that matcher, criterion and denoising share."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from detectron2.structures import Instances
from torch import Tensor
from torchvision.ops import box_convert


class Targets(NamedTuple):
    """Ground truth of B images, padded to the T boxes of the richest."""

    labels: Tensor  #: (B, T) int64, 0 where padded
    boxes: Tensor  #: (B, T, 4) cxcywh relative to the un-padded image, 0 where padded
    counts: tuple[int, ...]  #: boxes of each image


class Match(NamedTuple):
    """Pairs of queries and ground-truth boxes, N of them."""

    image: Tensor  #: (N,) int64
    query: Tensor  #: (N,) int64
    target: Tensor  #: (N,) int64

    @classmethod
    def from_host(
        cls, pairs: Sequence[tuple[np.ndarray, np.ndarray]], device: torch.device
    ) -> "Match":
        """Join the (query, target) index arrays of each image and move them to ``device``."""
        parts = [np.stack((np.full(len(q), i), q, t)) for i, (q, t) in enumerate(pairs)]
        joined = np.concatenate(parts, axis=1).astype(np.int64)
        return cls(*torch.from_numpy(joined).to(device, non_blocking=True))


def prepare_targets(
    instances: Sequence[Instances], device: torch.device, class_rows: Sequence[int] | None = None
) -> Targets:
    """Collect ``gt_boxes`` (xyxy in pixels of the un-padded image) and ``gt_classes`` of a batch.

    ``class_rows``: row of the class heads for each class, if they are not in order.
    """
    counts = tuple(len(x) for x in instances)
    labels = torch.zeros(len(instances), max(counts), dtype=torch.int64, device=device)
    boxes = torch.zeros(*labels.shape, 4, device=device)
    for index, (image, count) in enumerate(zip(instances, counts, strict=True)):
        height, width = image.image_size
        scale = torch.tensor([width, height, width, height], dtype=torch.float32)
        xyxy = image.gt_boxes.tensor / scale.to(image.gt_boxes.device)
        labels[index, :count] = image.gt_classes.to(device)
        boxes[index, :count] = box_convert(xyxy, "xyxy", "cxcywh").to(device)
    if class_rows is not None:
        labels = torch.tensor(class_rows, device=device)[labels]
    return Targets(labels, boxes, counts)
