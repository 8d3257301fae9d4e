"""The supervision of Focus-DETR's scores: which tokens are foreground, and how scores learn it."""

import dataclasses
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor
from torchvision.ops import box_convert

from ..losses import focal_loss
from ..structures import FeatureTokens, Targets, TokenSelection


@dataclasses.dataclass(frozen=True)
class ForegroundRule:
    """A token is foreground inside a box whose size is in the range of the token's level."""

    scale_ranges: Sequence[tuple[float, float]]  #: (low, high] of each level, in pixels
    scale_ranges_at: int  #: ... of images of this short side; 0: of any
    #: The size. ``max_side``: greatest distance of the token to a side of the box (the released
    #: code, after FCOS); ``half_size``: half of the box's longer side (eq. 1).
    distance: Literal["max_side", "half_size"]


def assign_foreground(tokens: FeatureTokens, targets: Targets, rule: ForegroundRule) -> Tensor:
    """Which tokens (B, S) of a batch are foreground of its ground truth."""
    # Made on the CPU from Python numbers: no GPU sync.
    sizes = torch.tensor([(width, height) * 2 for height, width in tokens.image_sizes])
    factors = [min(size) / (rule.scale_ranges_at or min(size)) for size in tokens.image_sizes]
    boxes = box_convert(targets.boxes, "cxcywh", "xyxy")
    # Sides on whole pixels survived the division by the image size only up to rounding.
    boxes = (boxes * sizes.to(boxes, non_blocking=True)[:, None]).mul(1024).round().div(1024)
    factor = torch.tensor(factors).to(boxes, non_blocking=True)[:, None, None]
    half_size = None
    if rule.distance == "half_size":
        half_size = (boxes[..., 2:] - boxes[..., :2]).amax(-1)[:, None] / 2
    foreground = []
    levels = zip(tokens.spatial_shapes, tokens.strides, rule.scale_ranges, strict=True)
    for (height, width), stride, (low, high) in levels:
        limits = (low * factor, high * factor)
        count = torch.arange(max(height, width), device=boxes.device)[:, None]
        center = count * stride + stride // 2
        below_x, within_x = _axis_masks(center[:width], boxes[..., 0::2], limits, half_size)
        below_y, within_y = _axis_masks(center[:height], boxes[..., 1::2], limits, half_size)
        # max(dx, dy) in (low, high] if and only if both are at most high and one is above low. The
        # matrix products count the boxes for which that holds: no (B, S, T) tensor is needed.
        found = within_y @ below_x.mT + below_y @ within_x.mT
        foreground.append((found > 0).flatten(1))
    return torch.cat(foreground, 1)


def _axis_masks(
    center: Tensor, sides: Tensor, limits: tuple[Tensor, Tensor], size: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Which rows or columns, by their ``center`` (N, 1), lie between two sides (B, T, 2) of a box
    whose ``size`` (B, 1, T), by default the distance to the farther side, is at most the upper of
    the ``limits`` (B, 1, 1), and for which it is within both: (B, N, T), 0 or 1."""
    near, far = center - sides[:, None, :, 0], sides[:, None, :, 1] - center
    size = torch.maximum(near, far) if size is None else size
    below = (torch.minimum(near, far) > 0) & (size <= limits[1])
    return below.to(sides.dtype), (below & (size > limits[0])).to(sides.dtype)


def foreground_loss(logits: Tensor, foreground: Tensor) -> Tensor:
    """Focal loss of scores (B, S) per foreground token (B, S) of an image, or per image without."""
    loss = focal_loss(logits, foreground)
    return (loss.sum(1) / foreground.sum(1).clamp(min=1)).mean()


def foreground_recall(selection: TokenSelection, foreground: Tensor) -> float:
    """Share of the foreground tokens, (B, S) bool, that are selected; 1 if there are none."""
    hits = selection.gather(foreground[..., None].float())[..., 0]
    if selection.within_budget is not None:
        hits = hits * selection.within_budget
    total = foreground.sum()
    return torch.where(total > 0, hits.sum() / total, 1.0).item()
