"""The encoder of Focus-DETR: foreground tokens found with supervision, objects attended twice."""

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
from .deformable import layer_arguments
from .scoring import TokenScorer
from .selective import ObjectAttention, SelectedUpdate, SelectiveEncoder

# Reading a number from the device waits for it, so the recall is not logged in every iteration.
LOG_PERIOD = 20


@ENCODER_REGISTRY.register()
class FocusEncoder(SelectiveEncoder):
    """Cascade of foreground tokens with dual attention (Focus-DETR, 3.2 and 3.3)."""

    @configurable
    def __init__(
        self,
        *,
        scale_ranges: list[tuple[float, float]],
        distance: str,
        loss_weight: float,
        **selection: Any,
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
            "scorer": build_scorer(cfg, focus.MODULATION),
            "keep_ratios": focus.KEEP_RATIOS,
            "frozen_values": focus.VALUE == "frozen",
            "scale_ranges": [tuple(limits) for limits in focus.SCALE_RANGES],
            "distance": focus.DISTANCE,
            "loss_weight": focus.LOSS_WEIGHT,
            **build_layers(cfg, focus),
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
    tokens: FeatureTokens,
    targets: Targets,
    scale_ranges: list[tuple[float, float]],
    distance: str,
) -> Tensor:
    """Tokens (B, S) that lie strictly inside a box whose scale is in the range of their level.

    Args:
        tokens: of the batch.
        targets: its ground truth.
        scale_ranges: (low, high] of each level, in pixels of the image.
        distance: the scale of a box. ``max_side``: greatest distance of the token to a side (the
            released code, after FCOS); ``half_size``: half of the box's longer side (eq. 1).
    """
    # Made on the host, so that nothing waits for a device.
    sizes = torch.tensor([(width, height) * 2 for height, width in tokens.image_sizes])
    centers, limits = [], []
    for (height, width), stride, scales in zip(
        tokens.spatial_shapes, tokens.strides, scale_ranges, strict=True
    ):
        y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
        centers.append(torch.stack((x, y), -1).flatten(0, 1) * stride + stride // 2)
        limits.append(torch.tensor(scales).expand(height * width, -1))
    boxes = box_convert(targets.boxes, "cxcywh", "xyxy")
    # Sides on whole pixels survived the division by the image size only up to rounding.
    boxes = (boxes * sizes.to(boxes, non_blocking=True)[:, None]).mul(1024).round().div(1024)
    boxes = boxes[:, None]  # (B, 1, T, 4)
    center, limit = (
        torch.cat(x).to(boxes, non_blocking=True)[:, None] for x in (centers, limits)
    )  # (S, 1, 2)
    near, far = center - boxes[..., :2], boxes[..., 2:] - center  # (B, S, T, 2)
    inside = torch.minimum(near, far).amin(-1) > 0
    if distance == "max_side":
        scale = torch.maximum(near, far).amax(-1)
    else:
        scale = (boxes[..., 2:] - boxes[..., :2]).amax(-1) / 2
    return (inside & (scale > limit[..., 0]) & (scale <= limit[..., 1])).any(-1)


def foreground_loss(logits: Tensor, wanted: Tensor) -> Tensor:
    """Focal loss of foreground logits (B, S), padding being background: the mean over the images.

    Each image is divided by its number of ``wanted`` tokens, (B, S) bool, or by one.
    """
    loss = sigmoid_focal_loss(logits, wanted.to(logits.dtype), FOCAL_ALPHA, FOCAL_GAMMA)
    return (loss.sum(1) / wanted.sum(1).clamp(min=1)).mean()


def build_scorer(cfg: CfgNode, order: str) -> TokenScorer:
    """The scoring network for the tokens of ``MODEL.DETR``; ``order`` see there."""
    detr = cfg.MODEL.DETR
    return TokenScorer(embed_dim=detr.EMBED_DIM, num_levels=detr.NUM_LEVELS, order=order)


def build_layers(cfg: CfgNode, node: CfgNode) -> dict[str, Any]:
    """Encoder layers, and the object attention that ``node`` asks for, as named arguments."""
    detr, count = cfg.MODEL.DETR, cfg.MODEL.DETR.ENCODER.NUM_LAYERS
    attentions = [
        ObjectAttention(
            embed_dim=detr.EMBED_DIM, num_heads=detr.NUM_HEADS, dropout=detr.ENCODER.DROPOUT
        )
        for _ in range(count if node.OBJECT_TOKENS else 0)
    ]
    return {
        "layers": [SelectedUpdate(**layer_arguments(cfg)) for _ in range(count)],
        "object_attention": attentions,
        "num_objects": node.OBJECT_TOKENS,
        "object_score": node.OBJECT_SCORE,
    }
