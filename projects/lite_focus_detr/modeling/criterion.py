"""The training losses of all families."""

from collections.abc import Sequence

import torch
from detectron2.utils import comm
from torch import Tensor
from torchvision.ops import box_convert, generalized_box_iou_loss, sigmoid_focal_loss

from .denoising import DenoisingQueries
from .heads import Prediction
from .matcher import FOCAL_ALPHA, FOCAL_GAMMA, HungarianMatcher
from .targets import Match, Targets


def average_num_boxes(counts: Sequence[int], device: torch.device, steps: int = 1) -> Tensor:
    """Ground-truth boxes per process and step, the normaliser of the losses; a scalar, never zero.

    ``counts``: boxes of all images of this process in all ``steps`` that share an update. Dividing
    by the result makes the mean gradient of several processes, or the mean of several steps, equal
    to that of one large batch.
    """
    total = torch.tensor(sum(counts), dtype=torch.float64, device=device)
    world_size = comm.get_world_size()
    if world_size > 1:
        torch.distributed.all_reduce(total)
    return total.clamp(min=1.0) / (world_size * steps)


class Criterion:
    """Match every set of predictions and weigh the losses (DETR, 3.1; DINO, 3.3)."""

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
        """``giou_eps`` is added to union and hull, which the GIoU divides by. With 0, two boxes
        without area give NaN, as in the original Deformable DETR; a ground-truth box has an area.
        ``class_agnostic_proposals``: proposals know one class, 0, for all objects."""
        self.matcher = matcher
        self.weights = (class_weight, box_weight, giou_weight)
        self.giou_eps = giou_eps
        self.class_agnostic_proposals = class_agnostic_proposals

    def __call__(
        self,
        layers: Sequence[Prediction],
        proposals: Prediction | None,
        targets: Targets,
        num_boxes: Tensor,
        encoder_layers: Sequence[Prediction] = (),
    ) -> dict[str, Tensor]:
        """Losses of the decoder layers, the last one without suffix, of the ``proposals``, suffix
        ``_enc``, and of predictions inside the encoder, suffixes ``_enc_0`` …

        ``num_boxes`` is the normaliser, see :func:`average_num_boxes`.
        """
        names = layer_suffixes(len(layers))
        names += [f"_enc_{index}" for index in range(len(encoder_layers))]
        predictions = [*layers, *encoder_layers]
        truths = [targets] * len(predictions)
        if proposals is not None:
            names.append("_enc")
            predictions.append(proposals)
            if self.class_agnostic_proposals:
                targets = targets._replace(labels=torch.zeros_like(targets.labels))
            truths.append(targets)
        matches = self.matcher(predictions, truths)
        losses: dict[str, Tensor] = {}
        for name, prediction, truth, match in zip(names, predictions, truths, matches, strict=True):
            losses.update(self._losses(name, prediction, truth, match, num_boxes))
        return losses

    def denoising(
        self,
        layers: Sequence[Prediction],
        queries: DenoisingQueries,
        targets: Targets,
        num_boxes: Tensor,
    ) -> dict[str, Tensor]:
        """Losses of the denoising queries, whose boxes are known; suffix ``_dn``."""
        num_boxes = num_boxes * queries.num_groups
        losses: dict[str, Tensor] = {}
        for name, layer in zip(layer_suffixes(len(layers)), layers, strict=True):
            losses.update(self._losses("_dn" + name, layer, targets, queries.match, num_boxes))
        return losses

    def _losses(
        self, name: str, prediction: Prediction, targets: Targets, match: Match, num_boxes: Tensor
    ) -> dict[str, Tensor]:
        """Focal loss of all queries, the unmatched as background; L1 and GIoU of the matched."""
        class_weight, box_weight, giou_weight = self.weights
        num_boxes = num_boxes.to(prediction.boxes.dtype)
        logits = prediction.logits
        wanted = torch.zeros_like(logits)
        wanted[match.image, match.query, targets.labels[match.image, match.target]] = 1.0
        focal = sigmoid_focal_loss(logits, wanted, FOCAL_ALPHA, FOCAL_GAMMA, reduction="sum")
        boxes = prediction.boxes[match.image, match.query]
        truth = targets.boxes[match.image, match.target].to(boxes.dtype)
        corners = [box_convert(x, "cxcywh", "xyxy") for x in (boxes, truth)]
        giou = generalized_box_iou_loss(*corners, reduction="sum", eps=self.giou_eps)
        return {
            "loss_class" + name: focal / num_boxes * class_weight,
            "loss_bbox" + name: (boxes - truth).abs().sum() / num_boxes * box_weight,
            "loss_giou" + name: giou / num_boxes * giou_weight,
        }


def layer_suffixes(count: int) -> list[str]:
    """Names of the decoder layers' losses: ``_0`` … and none for the last."""
    return [f"_{index}" for index in range(count - 1)] + [""]
