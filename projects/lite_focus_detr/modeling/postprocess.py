"""From the decoder's last predictions to detections."""

from collections.abc import Sequence

import torch
from detectron2.data.datasets.builtin_meta import COCO_CATEGORIES
from detectron2.structures import Boxes, Instances
from torch import Tensor
from torchvision.ops import box_convert

from .replaced_values import count_replaced
from .structures import Prediction

#: COCO category id of each contiguous class of detectron2's COCO data sets.
COCO_IDS = tuple(category["id"] for category in COCO_CATEGORIES if category["isthing"])


def select_detections(
    prediction: Prediction,
    image_sizes: Sequence[tuple[int, int]],
    max_detections: int,
    coco_id_rows: bool = False,
    padding_mask: Tensor | None = None,
) -> list[Instances]:
    """The best (query, class) pairs of each image; a query may appear with several classes.

    Args:
        prediction: of the last decoder layer.
        image_sizes: (height, width) before padding.
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
    best, index = scores.flatten(1).topk(min(max_detections, scores[0].numel()), dim=1)
    boxes = box_convert(prediction.boxes, "cxcywh", "xyxy")
    results, dropped = [], []
    for image, (height, width) in enumerate(image_sizes):
        chosen = boxes[image, index[image] // num_classes]
        result = Instances((height, width))
        result.pred_boxes = Boxes(chosen * chosen.new_tensor([width, height, width, height]))
        result.scores = best[image]
        result.pred_classes = index[image] % num_classes
        # A box that is not a number would count as a hit in COCO's AP.
        finite = result.scores.isfinite() & chosen.isfinite().all(-1)
        # Padding has the score zero.
        dropped.append((result.scores != 0) & ~finite)
        results.append(result[(result.scores > 0) & finite])
    if dropped:
        count_replaced(
            "detections",
            int(torch.cat(dropped).sum()),
            "detections are dropped: their score or box is not finite",
        )
    return results
