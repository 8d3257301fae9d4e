"""The losses of which all others are made."""

from torch import Tensor
from torchvision.ops import box_convert, generalized_box_iou_loss, sigmoid_focal_loss

#: Of the focal loss of RetinaNet, which all of these detectors use for their classes.
FOCAL_ALPHA = 0.25
FOCAL_GAMMA = 2.0


def focal_loss(logits: Tensor, target: Tensor) -> Tensor:
    """Sigmoid focal loss of every logit; ``target`` has probabilities, of the same shape."""
    return sigmoid_focal_loss(logits, target.to(logits.dtype), FOCAL_ALPHA, FOCAL_GAMMA)


def box_losses(boxes: Tensor, target_boxes: Tensor, giou_eps: float) -> tuple[Tensor, Tensor]:
    """Sums of L1 and GIoU loss of N pairs of boxes (N, 4) cxcywh (DETR, 3.1), see ``Criterion``."""
    corners = [box_convert(x, "cxcywh", "xyxy") for x in (boxes, target_boxes)]
    giou = generalized_box_iou_loss(*corners, reduction="sum", eps=giou_eps)
    return (boxes - target_boxes).abs().sum(), giou
