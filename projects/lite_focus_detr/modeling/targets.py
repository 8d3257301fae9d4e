"""From annotations to the ground truth that matcher, criterion and denoising share."""

from collections.abc import Sequence

import torch
from detectron2.structures import Instances
from torchvision.ops import box_convert

from .structures import Targets


def prepare_targets(
    instances: Sequence[Instances], device: torch.device, class_rows: Sequence[int] | None = None
) -> Targets:
    """Collect ``gt_boxes`` (xyxy in pixels of the un-padded image) and ``gt_classes`` of a batch;
    ``class_rows`` has the row of the class heads for each class, None: they are in order."""
    counts = tuple(len(x) for x in instances)
    labels = torch.zeros(len(instances), max(counts), dtype=torch.int64, device=device)
    boxes = torch.zeros(*labels.shape, 4, device=device)
    for index, (image, count) in enumerate(zip(instances, counts, strict=True)):
        height, width = image.image_size
        xyxy = image.gt_boxes.tensor
        xyxy = xyxy / torch.tensor((width, height) * 2, dtype=torch.float32).to(xyxy.device)
        labels[index, :count] = image.gt_classes.to(device)
        boxes[index, :count] = box_convert(xyxy, "xyxy", "cxcywh").to(device)
    if class_rows is not None:
        labels = torch.tensor(class_rows, device=device)[labels]
    return Targets(labels, boxes, counts)
