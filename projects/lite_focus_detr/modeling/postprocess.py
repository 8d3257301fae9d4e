"""From the decoder's last predictions to detections."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from detectron2.data.datasets.builtin_meta import COCO_CATEGORIES
from detectron2.structures import Boxes, Instances
from torch import Tensor
from torchvision.ops import box_convert

from .replaced_values import count_replaced
from .structures import Prediction

#: COCO category id of each contiguous class of detectron2's COCO data sets.
COCO_IDS = tuple(category["id"] for category in COCO_CATEGORIES if category["isthing"])


class Detections(NamedTuple):
    """The N best (query, class) pairs of each image; a query may appear with several classes."""

    boxes: Tensor  #: (B, N, 4), (x0, y0, x1, y1) in [0, 1] of the un-padded image
    scores: Tensor  #: (B, N), best first; 0 where there is no detection
    labels: Tensor  #: (B, N) int64


def best_detections(
    prediction: Prediction,
    max_detections: int,
    coco_id_rows: bool = False,
    padding_mask: Tensor | None = None,
) -> Detections:
    """Rank the classes of all queries.

    Args:
        prediction: of the last decoder layer.
        max_detections: of an image.
        coco_id_rows: classes are COCO ids: drop the unused and make the others contiguous.
        padding_mask: (B, Q) bool, True for slots that hold no query.
    """
    scores = prediction.logits.sigmoid()
    if coco_id_rows:
        scores = scores[..., COCO_IDS]
    if padding_mask is not None:
        scores = scores.masked_fill(padding_mask[..., None], 0.0)
    num_classes = scores.shape[-1]
    best, index = scores.flatten(1).topk(min(max_detections, scores.shape[1] * num_classes), dim=1)
    rows = (index // num_classes)[..., None].expand(-1, -1, 4)
    boxes = box_convert(prediction.boxes, "cxcywh", "xyxy").gather(1, rows)
    return Detections(boxes, best, index % num_classes)


def to_instances(found: Detections, image_sizes: Sequence[tuple[int, int]]) -> list[Instances]:
    """The detections of each image, whose size before padding is (height, width), in pixels."""
    results, dropped = [], []
    for (height, width), boxes, scores, labels in zip(image_sizes, *found, strict=True):
        result = Instances((height, width))
        result.pred_boxes = Boxes(boxes * boxes.new_tensor([width, height, width, height]))
        result.scores = scores
        result.pred_classes = labels
        # A box that is not a number would count as a hit in COCO's AP.
        finite = scores.isfinite() & boxes.isfinite().all(-1)
        # Padding has the score zero.
        dropped.append((scores != 0) & ~finite)
        results.append(result[(scores > 0) & finite])
    if dropped:
        event = "detections are dropped: their score or box is not finite"
        count_replaced("detections", int(torch.cat(dropped).sum()), event)
    return results
