"""Pictures of ground truth and predictions."""

from __future__ import annotations

from typing import Any

import matplotlib
import numpy as np
import numpy.typing as npt
import torch
from detectron2.structures import BoxMode, Instances
from matplotlib.font_manager import findfont
from torch import Tensor
from torchvision.transforms.functional import resize
from torchvision.utils import draw_bounding_boxes

Picture = npt.NDArray[np.uint8]

# Small images are enlarged to this long side, so that the labels can be read.
MIN_PICTURE_SIZE = 640
GAP = 8

_COLORS = matplotlib.colormaps["tab10"].resampled(10)


def draw_predictions(image: Picture, instances: Instances, metadata: Any) -> Picture:
    """Draw the output of a detector.

    Args:
        image: (H, W, 3) in RGB order.
        instances: with ``pred_boxes`` in pixels of ``image``, ``scores`` and ``pred_classes``.
        metadata: of the data set; without ``thing_classes`` the labels are numbers.

    Returns:
        an image in RGB order, enlarged if ``image`` is small.
    """
    labels = [
        f"{_class_name(label, metadata)} {score:.0%}"
        for label, score in zip(
            instances.pred_classes.tolist(), instances.scores.tolist(), strict=True
        )
    ]
    classes = instances.pred_classes.tolist()
    return _draw(image, instances.pred_boxes.tensor, classes, labels)


def draw_ground_truth(image: Picture, record: dict[str, Any], metadata: Any) -> Picture:
    """Draw the annotations of a record in detectron2's format; see :func:`draw_predictions`."""
    annotations = record["annotations"]
    boxes = [
        BoxMode.convert(annotation["bbox"], annotation["bbox_mode"], BoxMode.XYXY_ABS)
        for annotation in annotations
    ]
    classes = [annotation["category_id"] for annotation in annotations]
    labels = [_class_name(label, metadata) for label in classes]
    return _draw(image, torch.tensor(boxes).reshape(-1, 4), classes, labels)


def side_by_side(left: Picture, right: Picture) -> Picture:
    """Put two images (H, W, 3) of one height beside each other, with a white gap."""
    gap = np.full((left.shape[0], GAP, 3), 255, dtype=np.uint8)
    return np.concatenate([left, gap, right], axis=1)


def _draw(image: Picture, boxes: Tensor, classes: list[int], labels: list[str]) -> Picture:
    height, width = image.shape[:2]
    scale = max(1.0, MIN_PICTURE_SIZE / max(height, width))
    canvas = torch.from_numpy(image.copy()).movedim(-1, 0)
    canvas = resize(canvas, [round(scale * height), round(scale * width)])
    colors = [tuple(int(255 * c) for c in _COLORS(label % 10)[:3]) for label in classes]
    if labels:
        thickness = max(2, max(canvas.shape) // 400)
        canvas = draw_bounding_boxes(
            canvas,
            scale * boxes,
            labels=labels,
            colors=colors,
            width=thickness,
            font=findfont("DejaVu Sans"),
            font_size=8 * thickness,
            label_colors="white",
            fill_labels=True,
        )
    return np.ascontiguousarray(canvas.movedim(0, -1).numpy())


def _class_name(label: int, metadata: Any) -> str:
    names = metadata.get("thing_classes")
    return str(label) if names is None else str(names[label])
