"""The encoder of Focus-DETR: foreground tokens found with supervision, objects attended twice."""

import logging
from collections.abc import Sequence
from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.utils.events import get_event_storage, has_event_storage
from torch import Tensor
from torchvision.ops import box_convert, sigmoid_focal_loss

from ..matcher import FOCAL_ALPHA, FOCAL_GAMMA
from ..targets import Targets
from ..tokens import FeatureTokens
from .base import ENCODER_REGISTRY, EncoderOutput
from .selection import TokenSelection
from .selective import SelectiveEncoder, selection_arguments

logger = logging.getLogger(__name__)

# Reading a number from the device waits for it, so the recall is not logged in every iteration.
LOG_PERIOD = 20
# A level without a single foreground token in so many iterations is worth a warning.
LEVEL_CHECK_ITERATIONS = 100

ScaleRanges = Sequence[tuple[float, float]]  #: (low, high] of each level, in pixels of the image


@ENCODER_REGISTRY.register()
class FocusEncoder(SelectiveEncoder):
    """Cascade of foreground tokens with dual attention (Focus-DETR, 3.2 and 3.3)."""

    @configurable
    def __init__(
        self,
        *,
        scale_ranges: ScaleRanges,
        scale_ranges_at: int,
        distance: str,
        loss_weight: float,
        **selection: Any,
    ) -> None:
        """Configure the supervision; ``selection`` see :class:`SelectiveEncoder`.

        ``scale_ranges``: (low, high] in pixels of the boxes that each level must find, measured as
        ``distance``, in images of the short side ``scale_ranges_at``; 0: of any; see
        :func:`assign_foreground`.
        """
        super().__init__(**selection)
        self.scale_ranges = scale_ranges
        self.scale_ranges_at = scale_ranges_at
        self.positives: Tensor | None = None
        self.checked_iterations = 0
        self.distance = distance
        self.loss_weight = loss_weight

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """Arguments of the constructor from ``MODEL.FOCUS`` and ``MODEL.DETR.ENCODER``."""
        focus = cfg.MODEL.FOCUS
        return {
            "keep_ratios": focus.KEEP_RATIOS,
            "frozen_values": focus.VALUE == "frozen",
            "scale_ranges": [tuple(limits) for limits in focus.SCALE_RANGES],
            "scale_ranges_at": focus.SCALE_RANGES_AT,
            "distance": focus.DISTANCE,
            "loss_weight": focus.LOSS_WEIGHT,
            **selection_arguments(cfg, focus, focus.MODULATION),
        }

    def losses(
        self, output: EncoderOutput, tokens: FeatureTokens, targets: Targets, sampling: Any
    ) -> dict[str, Tensor]:
        """``loss_foreground``: focal loss of the scores; see :class:`Encoder`."""
        wanted = assign_foreground(
            tokens, targets, self.scale_ranges, self.distance, self.scale_ranges_at
        )
        self._check_levels(wanted, tokens)
        if has_event_storage() and get_event_storage().iter % LOG_PERIOD == 0:
            kept = output.aux["kept"]
            for layer in {0, len(kept) - 1}:
                recall = foreground_recall(kept[layer], wanted)
                get_event_storage().put_scalar(f"focus/foreground_recall_layer{layer}", recall)
        loss = foreground_loss(output.aux["foreground"], wanted)
        return {"loss_foreground": self.loss_weight * loss}

    def _check_levels(self, wanted: Tensor, tokens: FeatureTokens) -> None:
        """Warn once if a level has had no foreground since the start of the training."""
        if self.checked_iterations >= LEVEL_CHECK_ITERATIONS:
            return
        self.checked_iterations += 1
        lengths = [height * width for height, width in tokens.spatial_shapes]
        found = torch.stack([level.any() for level in torch.split(wanted, lengths, 1)])
        self.positives = found if self.positives is None else self.positives | found
        if self.checked_iterations == LEVEL_CHECK_ITERATIONS and not self.positives.all():
            empty = [
                level for level, any_found in enumerate(self.positives.tolist()) if not any_found
            ]
            logger.warning(
                "Levels %s (strides %s) had no foreground token in the first %d iterations: all of "
                "their tokens are trained as background. MODEL.FOCUS.SCALE_RANGES are pixels of "
                "images of the usual size; for smaller ones set MODEL.FOCUS.SCALE_RANGES_AT 800",
                ", ".join(map(str, empty)),
                ", ".join(str(tokens.strides[level]) for level in empty),
                LEVEL_CHECK_ITERATIONS,
            )


def foreground_recall(selection: TokenSelection, wanted: Tensor) -> float:
    """Share of the ``wanted`` tokens, (B, S) bool, that are selected; 1 if none is wanted."""
    found = selection.gather(wanted[..., None].float())[..., 0]
    hits = found if selection.kept is None else found * selection.kept
    total = wanted.sum()
    return torch.where(total > 0, hits.sum() / total, 1.0).item()


def assign_foreground(
    tokens: FeatureTokens,
    targets: Targets,
    scale_ranges: ScaleRanges,
    distance: str,
    scale_ranges_at: int = 0,
) -> Tensor:
    """Tokens (B, S) that lie strictly inside a box whose scale is in the range of their level.

    The scale is a ``distance``. ``max_side``: greatest distance of the token to a side of the box
    (the released code, after FCOS); ``half_size``: half of the box's longer side (eq. 1). The
    ranges are pixels; with ``scale_ranges_at``, pixels of images of that short side.
    """
    factors = [min(size) / (scale_ranges_at or min(size)) for size in tokens.image_sizes]
    # Made on the host, so that nothing waits for a device.
    sizes = torch.tensor([(width, height) * 2 for height, width in tokens.image_sizes])
    boxes = box_convert(targets.boxes, "cxcywh", "xyxy")
    # Sides on whole pixels survived the division by the image size only up to rounding.
    boxes = (boxes * sizes.to(boxes, non_blocking=True)[:, None]).mul(1024).round().div(1024)
    half_size = (boxes[..., 2:] - boxes[..., :2]).amax(-1) / 2  # (B, T)
    factor = torch.tensor(factors).to(boxes, non_blocking=True)[:, None, None]

    def on_axis(axis: int, count: int, stride: int, limits: tuple[float, float]) -> list[Tensor]:
        """Which of ``count`` rows or columns meet a box, (B, count, T): with a distance below the
        upper limit; with one within both."""
        center = torch.arange(count, device=boxes.device)[:, None] * stride + stride // 2
        near, far = center - boxes[:, None, :, axis], boxes[:, None, :, axis + 2] - center
        scale = torch.maximum(near, far) if distance == "max_side" else half_size[:, None]
        below = (torch.minimum(near, far) > 0) & (scale <= limits[1] * factor)
        return [below.to(boxes.dtype), (below & (scale > limits[0] * factor)).to(boxes.dtype)]

    wanted = []
    levels = zip(tokens.spatial_shapes, tokens.strides, scale_ranges, strict=True)
    for (height, width), stride, limits in levels:
        below_x, within_x = on_axis(0, width, stride, limits)
        below_y, within_y = on_axis(1, height, stride, limits)
        # The greater of both distances lies within: both below, at least one within. The products
        # count such boxes without a tensor of all tokens and boxes.
        found = within_y @ below_x.mT + below_y @ within_x.mT
        wanted.append((found > 0).flatten(1))
    return torch.cat(wanted, 1)


def foreground_loss(logits: Tensor, wanted: Tensor) -> Tensor:
    """Focal loss of foreground logits (B, S), padding being background: the mean over the images.

    Each image is divided by its number of ``wanted`` tokens, (B, S) bool, or by one.
    """
    loss = sigmoid_focal_loss(logits, wanted.to(logits.dtype), FOCAL_ALPHA, FOCAL_GAMMA)
    return (loss.sum(1) / wanted.sum(1).clamp(min=1)).mean()
