"""The training losses of all families."""

import dataclasses
from collections.abc import Sequence

import torch
from detectron2.config import CfgNode
from detectron2.utils import comm
from torch import Tensor

from .losses import box_losses, focal_loss
from .matcher import HungarianMatcher
from .structures import DetectorOutputs, MatchIndices, Prediction, Targets


def average_num_boxes(counts: Sequence[int], device: torch.device, steps: int = 1) -> Tensor:
    """Ground-truth boxes per process and step, the normaliser of the losses; a scalar, never zero.

    Dividing by it makes the mean gradient of several processes, or of several ``steps`` that share
    an update, equal to that of one large batch; ``counts`` are of all images of this process.
    """
    total = torch.tensor(sum(counts), dtype=torch.float64, device=device)
    world_size = comm.get_world_size()
    if world_size > 1:
        torch.distributed.all_reduce(total)
    return total.clamp(min=1.0) / (world_size * steps)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Criterion:
    """Match every set of predictions and weigh the losses (DETR, 3.1; DINO, 3.3)."""

    matcher: HungarianMatcher  #: of predictions and ground truth
    class_weight: float  #: of the focal loss
    box_weight: float  #: of the L1 loss
    giou_weight: float  #: of the generalised-IoU loss
    #: Added to union and hull, which the GIoU divides by. With 0, as in the original Deformable
    #: DETR, two boxes without area give NaN; a ground-truth box has an area.
    giou_eps: float = 1e-6
    class_agnostic_proposals: bool  #: proposals know one class, 0, for all objects

    @classmethod
    def from_config(cls, cfg: CfgNode) -> "Criterion":
        """Build it from ``MODEL.DETR.LOSS``, and the matcher from ``MODEL.DETR.MATCHER``."""
        detr, loss = cfg.MODEL.DETR, cfg.MODEL.DETR.LOSS
        return cls(
            matcher=HungarianMatcher.from_config(cfg),
            class_weight=loss.CLASS_WEIGHT,
            box_weight=loss.BOX_WEIGHT,
            giou_weight=loss.GIOU_WEIGHT,
            giou_eps=loss.GIOU_EPS,
            class_agnostic_proposals=detr.CLASS_AGNOSTIC_PROPOSALS,
        )

    def __call__(
        self, outputs: DetectorOutputs, targets: Targets, num_boxes: Tensor
    ) -> dict[str, Tensor]:
        """Weighted losses by name, normalised by ``num_boxes``, see :func:`average_num_boxes`.

        The suffixes are ``_0`` … and none for the decoder's layers, the same after ``_dn`` for
        their denoising queries, ``_enc`` for proposals, ``_enc_0`` … inside the encoder.
        """
        losses: dict[str, Tensor] = {}
        denoising = outputs.denoising
        if denoising is not None:
            count = num_boxes * denoising.num_groups
            suffixes = layer_suffixes(len(outputs.denoising_outputs))
            for suffix, layer in zip(suffixes, outputs.denoising_outputs, strict=True):
                pairs = denoising.matches
                losses |= self.weighted_losses(f"_dn{suffix}", layer, targets, pairs, count)
        predictions = [*outputs.layers, *outputs.encoder.predictions]
        suffixes = layer_suffixes(len(outputs.layers))
        suffixes += [f"_enc_{index}" for index in range(len(outputs.encoder.predictions))]
        all_targets = [targets] * len(predictions)
        if outputs.proposal_outputs is not None:
            suffixes.append("_enc")
            predictions.append(outputs.proposal_outputs)
            if self.class_agnostic_proposals:
                targets = targets._replace(labels=torch.zeros_like(targets.labels))
            all_targets.append(targets)
        matches = self.matcher(predictions, all_targets)
        for arguments in zip(suffixes, predictions, all_targets, matches, strict=True):
            losses |= self.weighted_losses(*arguments, num_boxes)
        return losses

    def weighted_losses(
        self, suffix: str, layer: Prediction, targets: Targets, pairs: MatchIndices, count: Tensor
    ) -> dict[str, Tensor]:
        """Focal loss of all queries, the unmatched as background; L1 and GIoU of the matched."""
        num_boxes = count.to(layer.boxes.dtype)
        target_classes = torch.zeros_like(layer.logits)
        labels = targets.labels[pairs.batch, pairs.target]
        target_classes[pairs.batch, pairs.query, labels] = 1.0
        focal = focal_loss(layer.logits, target_classes).sum()
        boxes = layer.boxes[pairs.batch, pairs.query]
        target_boxes = targets.boxes[pairs.batch, pairs.target].to(boxes.dtype)
        distance, giou = box_losses(boxes, target_boxes, self.giou_eps)
        return {
            f"loss_class{suffix}": focal / num_boxes * self.class_weight,
            f"loss_bbox{suffix}": distance / num_boxes * self.box_weight,
            f"loss_giou{suffix}": giou / num_boxes * self.giou_weight,
        }


def layer_suffixes(count: int) -> list[str]:
    """Names of the decoder layers' losses: ``_0`` … and none for the last."""
    return [f"_{index}" for index in range(count - 1)] + [""]
