"""The training losses of all families."""

from collections.abc import Sequence
from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.utils import comm
from torch import Tensor

from .losses import box_losses, focal_loss
from .matcher import HungarianMatcher
from .structures import DenoisingQueries, MatchIndices, Prediction, Targets


def average_num_boxes(counts: Sequence[int], device: torch.device, steps: int = 1) -> Tensor:
    """Ground-truth boxes per process and step, the normaliser of the losses; a scalar, never zero.

    Dividing by it makes the mean gradient of several processes, or the mean of several steps, equal
    to that of one large batch.

    Args:
        counts: boxes of all images of this process in all steps that share an update.
        device: of the result.
        steps: their number.
    """
    total = torch.tensor(sum(counts), dtype=torch.float64, device=device)
    world_size = comm.get_world_size()
    if world_size > 1:
        torch.distributed.all_reduce(total)
    return total.clamp(min=1.0) / (world_size * steps)


class Criterion:
    """Match every set of predictions and weigh the losses (DETR, 3.1; DINO, 3.3)."""

    @configurable
    def __init__(
        self,
        *,
        matcher: HungarianMatcher,
        class_weight: float,
        box_weight: float,
        giou_weight: float,
        giou_eps: float = 1e-6,
        class_agnostic_proposals: bool,
    ) -> None:
        """
        Args:
            matcher: of predictions and ground truth.
            class_weight: of the focal loss.
            box_weight: of the L1 loss.
            giou_weight: of the generalised-IoU loss.
            giou_eps: is added to union and hull, which the GIoU divides by. With 0, two boxes
                without area give NaN, as in the original Deformable DETR; a ground-truth box has
                an area.
            class_agnostic_proposals: proposals know one class, 0, for all objects.
        """
        self.matcher = matcher
        self.class_weight = class_weight
        self.box_weight = box_weight
        self.giou_weight = giou_weight
        self.giou_eps = giou_eps
        self.class_agnostic_proposals = class_agnostic_proposals

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """Arguments of the constructor from ``MODEL.DETR.{MATCHER,LOSS}``."""
        detr, loss = cfg.MODEL.DETR, cfg.MODEL.DETR.LOSS
        return {
            "matcher": HungarianMatcher(cfg),
            "class_weight": loss.CLASS_WEIGHT,
            "box_weight": loss.BOX_WEIGHT,
            "giou_weight": loss.GIOU_WEIGHT,
            "giou_eps": loss.GIOU_EPS,
            "class_agnostic_proposals": detr.CLASS_AGNOSTIC_PROPOSALS,
        }

    def __call__(
        self,
        layers: Sequence[Prediction],
        proposals: Prediction | None,
        targets: Targets,
        num_boxes: Tensor,
        encoder_layers: Sequence[Prediction] = (),
    ) -> dict[str, Tensor]:
        """Losses of all predictions but those of denoising queries, by name.

        Args:
            layers: of the decoder; suffixes ``_0`` … and none for the last.
            proposals: suffix ``_enc``.
            targets: ground truth.
            num_boxes: the normaliser, see :func:`average_num_boxes`.
            encoder_layers: inside the encoder; suffixes ``_enc_0`` …
        """
        names = layer_suffixes(len(layers))
        names += [f"_enc_{index}" for index in range(len(encoder_layers))]
        predictions = [*layers, *encoder_layers]
        all_targets = [targets] * len(predictions)
        if proposals is not None:
            names.append("_enc")
            predictions.append(proposals)
            if self.class_agnostic_proposals:
                targets = targets._replace(labels=torch.zeros_like(targets.labels))
            all_targets.append(targets)
        matches = self.matcher(predictions, all_targets)
        losses: dict[str, Tensor] = {}
        for arguments in zip(names, predictions, all_targets, matches, strict=True):
            losses.update(self.weighted_losses(*arguments, num_boxes))
        return losses

    def denoising(
        self,
        layers: Sequence[Prediction],
        queries: DenoisingQueries,
        targets: Targets,
        num_boxes: Tensor,
    ) -> dict[str, Tensor]:
        """Losses of the denoising queries, whose boxes are known; suffix ``_dn``.

        Args:
            layers: their predictions in all decoder layers.
            queries: what they were.
            targets: ground truth.
            num_boxes: see :func:`average_num_boxes`.
        """
        num_boxes = num_boxes * queries.num_groups
        losses: dict[str, Tensor] = {}
        for name, layer in zip(layer_suffixes(len(layers)), layers, strict=True):
            arguments = (f"_dn{name}", layer, targets, queries.matches, num_boxes)
            losses.update(self.weighted_losses(*arguments))
        return losses

    def weighted_losses(
        self,
        suffix: str,
        prediction: Prediction,
        targets: Targets,
        matches: MatchIndices,
        num_boxes: Tensor,
    ) -> dict[str, Tensor]:
        """Focal loss of all queries, the unmatched as background; L1 and GIoU of the matched."""
        logits, num_boxes = prediction.logits, num_boxes.to(prediction.boxes.dtype)
        target_classes = torch.zeros_like(logits)
        labels = targets.labels[matches.batch, matches.target]
        target_classes[matches.batch, matches.query, labels] = 1.0
        focal = focal_loss(logits, target_classes).sum()
        boxes = prediction.boxes[matches.batch, matches.query]
        target_boxes = targets.boxes[matches.batch, matches.target].to(boxes.dtype)
        distance, giou = box_losses(boxes, target_boxes, self.giou_eps)
        return {
            f"loss_class{suffix}": focal / num_boxes * self.class_weight,
            f"loss_bbox{suffix}": distance / num_boxes * self.box_weight,
            f"loss_giou{suffix}": giou / num_boxes * self.giou_weight,
        }


def layer_suffixes(count: int) -> list[str]:
    """Names of the decoder layers' losses: ``_0`` … and none for the last."""
    return [f"_{index}" for index in range(count - 1)] + [""]
