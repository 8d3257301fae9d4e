"""The supervision of Focus-DETR's scores: which tokens are foreground, and how scores learn it."""

import dataclasses
import logging
from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
from detectron2.config import CfgNode
from detectron2.utils.events import get_event_storage, has_event_storage
from torch import Tensor
from torchvision.ops import box_convert

from ..losses import focal_loss
from ..structures import EncoderOutput, FeatureTokens, Sampling, Targets, TokenSelection
from ..tokens import split_levels
from .base import Encoder

logger = logging.getLogger(__name__)

# Reading a number from a GPU waits for it, so the recall is not logged in every iteration.
LOG_PERIOD = 20
# A level without a single foreground token in so many batches of a process is worth a warning.
LEVEL_CHECK_ITERATIONS = 100


@dataclasses.dataclass(frozen=True)
class ForegroundRule:
    """A token is foreground inside a box whose size is in the range of the token's level."""

    scale_ranges: Sequence[tuple[float, float]]  #: (low, high] of each level, in pixels
    scale_ranges_at: int  #: ... of images of this short side; 0: of any
    #: The size. ``max_side``: greatest distance of the token to a side of the box (the released
    #: code, after FCOS); ``half_size``: half of the box's longer side (eq. 1).
    distance: Literal["max_side", "half_size"]

    @classmethod
    def from_config(cls, cfg: CfgNode) -> "ForegroundRule":
        """The rule of ``MODEL.FOCUS``."""
        focus = cfg.MODEL.FOCUS
        ranges = [tuple(limits) for limits in focus.SCALE_RANGES]
        return cls(ranges, focus.SCALE_RANGES_AT, focus.DISTANCE)


class ForegroundSupervised(Encoder):
    """An encoder whose scores learn the foreground of the ground truth, as MODEL.FOCUS says."""

    choices: ClassVar = {
        "MODEL.FOCUS.MODULATION": ("none", "top_down", "bottom_up"),
        "MODEL.FOCUS.DISTANCE": ("max_side", "half_size"),
        "MODEL.FOCUS.OBJECT_SCORE": ("logit", "probability"),
    }
    minimum_values: ClassVar = {"MODEL.FOCUS.SCALE_RANGES_AT": 0, "MODEL.FOCUS.LOSS_WEIGHT": 0}
    list_lengths: ClassVar = {"MODEL.FOCUS.SCALE_RANGES": "MODEL.DETR.NUM_LEVELS"}

    rule: ForegroundRule
    loss_weight: float
    watched_layers: tuple[int, int]  #: whose recall is logged
    levels_found: Tensor | bool = False  #: (L,) from the first iteration on
    checked_iterations = 0

    @staticmethod
    def validate_config(cfg: CfgNode) -> None:
        """See :meth:`Encoder.validate_config`."""
        ranges = cfg.MODEL.FOCUS.SCALE_RANGES
        if any(len(limits) != 2 or limits[0] >= limits[1] for limits in ranges):
            rule = "must hold a [low, high] with low < high per level"
            raise ValueError(f"MODEL.FOCUS.SCALE_RANGES {ranges} {rule}")

    def losses(
        self, output: EncoderOutput, tokens: FeatureTokens, targets: Targets, sampling: Sampling
    ) -> dict[str, Tensor]:
        """``loss_foreground``: focal loss of the scores; see :class:`Encoder`."""
        trace = output.trace
        assert trace is not None
        foreground = assign_foreground(tokens, targets, self.rule)
        self.check_levels(foreground, tokens)
        if has_event_storage() and get_event_storage().iter % LOG_PERIOD == 0:
            for layer in set(self.watched_layers):
                recall = foreground_recall(trace.kept[layer], foreground)
                get_event_storage().put_scalar(f"focus/foreground_recall_layer{layer}", recall)
        loss = foreground_loss(trace.foreground, foreground)
        return {"loss_foreground": self.loss_weight * loss}

    def check_levels(self, foreground: Tensor, tokens: FeatureTokens) -> None:
        """Warn once if a level has had no foreground, (B, S) bool, since the training began."""
        self.checked_iterations += 1
        if self.checked_iterations > LEVEL_CHECK_ITERATIONS:
            return
        levels = split_levels(foreground, tokens.spatial_shapes)
        found = torch.stack([level.any() for level in levels])
        self.levels_found = self.levels_found | found
        if self.checked_iterations == LEVEL_CHECK_ITERATIONS and not self.levels_found.all():
            empty = (~self.levels_found).nonzero()[:, 0].tolist()
            names = (", ".join(map(str, x)) for x in (empty, [tokens.strides[x] for x in empty]))
            logger.warning(
                "Levels %s (strides %s) had no foreground token in the first %d batches: all of "
                "their tokens are trained as background. MODEL.FOCUS.SCALE_RANGES are pixels of "
                "images of the usual size; for smaller ones set MODEL.FOCUS.SCALE_RANGES_AT 800",
                *names,
                LEVEL_CHECK_ITERATIONS,
            )


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
