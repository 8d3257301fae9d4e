"""The supervision of Focus-DETR's scores: which tokens are foreground, and how scores learn it."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torchvision.ops import box_convert

from ..losses import focal_loss
from ..structures import FeatureTokens, Targets, TokenSelection

ScaleRanges = Sequence[tuple[float, float]]  #: (low, high] of each level, in pixels of the image


def assign_foreground(
    tokens: FeatureTokens,
    targets: Targets,
    scale_ranges: ScaleRanges,
    distance: str,
    scale_ranges_at: int = 0,
) -> Tensor:
    """Find the tokens that lie strictly inside a box whose scale is in the range of their level.

    Args:
        tokens: the batch.
        targets: its boxes.
        scale_ranges: (low, high] of each level, in pixels.
        distance: the scale. ``max_side``: greatest distance of the token to a side of the box (the
            released code, after FCOS); ``half_size``: half of the box's longer side (eq. 1).
        scale_ranges_at: the ranges are pixels of images of this short side; 0: of any.

    Returns:
        (B, S) bool.
    """
    # Made on the CPU from Python numbers: no GPU sync.
    sizes = torch.tensor([(width, height) * 2 for height, width in tokens.image_sizes])
    factors = [min(size) / (scale_ranges_at or min(size)) for size in tokens.image_sizes]
    boxes = box_convert(targets.boxes, "cxcywh", "xyxy")
    # Sides on whole pixels survived the division by the image size only up to rounding.
    boxes = (boxes * sizes.to(boxes, non_blocking=True)[:, None]).mul(1024).round().div(1024)
    factor = torch.tensor(factors).to(boxes, non_blocking=True)[:, None, None]
    foreground = []
    levels = zip(tokens.spatial_shapes, tokens.strides, scale_ranges, strict=True)
    for (height, width), stride, (low, high) in levels:
        limits = (low * factor, high * factor)
        below_x, within_x = _axis_masks(boxes[..., 0::2], width, stride, limits, distance, boxes)
        below_y, within_y = _axis_masks(boxes[..., 1::2], height, stride, limits, distance, boxes)
        # max(dx, dy) in (low, high] if and only if both are at most high and one is above low. The
        # matrix products count the boxes for which that holds: no (B, S, T) tensor is needed.
        found = within_y @ below_x.mT + below_y @ within_x.mT
        foreground.append((found > 0).flatten(1))
    return torch.cat(foreground, 1)


def _axis_masks(
    sides: Tensor,
    count: int,
    stride: int,
    limits: tuple[Tensor, Tensor],
    distance: str,
    boxes: Tensor,
) -> tuple[Tensor, Tensor]:
    """Which of ``count`` rows or columns meet a box at a distance of at most the upper limit, and
    which at one within both ``limits`` (B, 1, 1): (B, count, T), 0 or 1.

    ``sides`` (B, T, 2) are those of the ``boxes`` (B, T, 4) xyxy along the axis.
    """
    center = torch.arange(count, device=sides.device)[:, None] * stride + stride // 2
    near, far = center - sides[:, None, :, 0], sides[:, None, :, 1] - center
    if distance == "max_side":
        scale = torch.maximum(near, far)
    else:
        scale = (boxes[..., 2:] - boxes[..., :2]).amax(-1)[:, None] / 2
    below = (torch.minimum(near, far) > 0) & (scale <= limits[1])
    return below.to(boxes.dtype), (below & (scale > limits[0])).to(boxes.dtype)


def foreground_loss(logits: Tensor, foreground: Tensor) -> Tensor:
    """Focal loss of foreground scores, padding being background.

    Args:
        logits: (B, S).
        foreground: (B, S) bool; each image is divided by the number of its tokens, or by one.

    Returns:
        The mean over the images.
    """
    loss = focal_loss(logits, foreground)
    return (loss.sum(1) / foreground.sum(1).clamp(min=1)).mean()


def foreground_recall(selection: TokenSelection, foreground: Tensor) -> float:
    """Share of the foreground tokens, (B, S) bool, that are selected; 1 if there are none."""
    hits = selection.gather(foreground[..., None].float())[..., 0]
    if selection.within_budget is not None:
        hits = hits * selection.within_budget
    total = foreground.sum()
    return torch.where(total > 0, hits.sum() / total, 1.0).item()
