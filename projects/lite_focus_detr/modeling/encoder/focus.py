"""The encoder of Focus-DETR: foreground tokens found with supervision, objects attended twice."""

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
from .selective import SelectiveEncoder, selection_arguments

# Reading a number from the device waits for it, so the recall is not logged in every iteration.
LOG_PERIOD = 20

ScaleRanges = Sequence[tuple[float, float]]  #: (low, high] of each level, in pixels of the image


@ENCODER_REGISTRY.register()
class FocusEncoder(SelectiveEncoder):
    """Cascade of foreground tokens with dual attention (Focus-DETR, 3.2 and 3.3)."""

    @configurable
    def __init__(
        self, *, scale_ranges: ScaleRanges, distance: str, loss_weight: float, **selection: Any
    ) -> None:
        """Configure the supervision; ``selection`` see :class:`SelectiveEncoder`.

        ``scale_ranges``: (low, high] in pixels of the boxes that each level must find, measured as
        ``distance``, see :func:`assign_foreground`.
        """
        super().__init__(**selection)
        self.scale_ranges = scale_ranges
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
            "distance": focus.DISTANCE,
            "loss_weight": focus.LOSS_WEIGHT,
            **selection_arguments(cfg, focus, focus.MODULATION),
        }

    def losses(
        self, output: EncoderOutput, tokens: FeatureTokens, targets: Targets, sampling: Any
    ) -> dict[str, Tensor]:
        """``loss_foreground``: focal loss of the scores; see :class:`Encoder`."""
        wanted = assign_foreground(tokens, targets, self.scale_ranges, self.distance)
        if has_event_storage() and get_event_storage().iter % LOG_PERIOD == 0:
            first = output.aux["kept"][0]
            found = first.gather(wanted[..., None].float())[..., 0]
            hits = found if first.kept is None else found * first.kept
            recall = hits.sum() / wanted.sum().clamp(min=1)
            get_event_storage().put_scalar("focus/foreground_recall", recall.item())
        loss = foreground_loss(output.aux["foreground"], wanted)
        return {"loss_foreground": self.loss_weight * loss}


def assign_foreground(
    tokens: FeatureTokens, targets: Targets, scale_ranges: ScaleRanges, distance: str
) -> Tensor:
    """Tokens (B, S) that lie strictly inside a box whose scale is in the range of their level.

    The scale is a ``distance``. ``max_side``: greatest distance of the token to a side of the box
    (the released code, after FCOS); ``half_size``: half of the box's longer side (eq. 1).
    """
    # Made on the host, so that nothing waits for a device.
    sizes = torch.tensor([(width, height) * 2 for height, width in tokens.image_sizes])
    boxes = box_convert(targets.boxes, "cxcywh", "xyxy")
    # Sides on whole pixels survived the division by the image size only up to rounding.
    boxes = (boxes * sizes.to(boxes, non_blocking=True)[:, None]).mul(1024).round().div(1024)
    half_size = (boxes[..., 2:] - boxes[..., :2]).amax(-1) / 2  # (B, T)

    def on_axis(axis: int, count: int, stride: int, limits: tuple[float, float]) -> list[Tensor]:
        """Which of ``count`` rows or columns meet a box, (B, count, T): with a distance below the
        upper limit; with one within both."""
        center = torch.arange(count, device=boxes.device)[:, None] * stride + stride // 2
        near, far = center - boxes[:, None, :, axis], boxes[:, None, :, axis + 2] - center
        scale = torch.maximum(near, far) if distance == "max_side" else half_size[:, None]
        below = (torch.minimum(near, far) > 0) & (scale <= limits[1])
        return [below.to(boxes.dtype), (below & (scale > limits[0])).to(boxes.dtype)]

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
