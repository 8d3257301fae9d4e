"""Hungarian matching of predictions and ground truth."""

import dataclasses
from collections.abc import Sequence

import numpy as np
import torch
from detectron2.config import CfgNode
from torch import Tensor
from torchvision.ops import box_convert, generalized_box_iou

from .losses import FOCAL_ALPHA, FOCAL_GAMMA
from .replaced_values import count_replaced
from .structures import MatchIndices, Prediction, Targets

# Stands for a cost that is not a number: worse than any real one, and the assignment exists.
WORST_COST = 1e6


@dataclasses.dataclass(frozen=True, kw_only=True)
class HungarianMatcher:
    """One-to-one assignment of least cost (DETR, eq. 1, with the focal cost of Deformable DETR)."""

    class_cost: float  #: weight of the focal cost
    box_cost: float  #: weight of the L1 distance
    giou_cost: float  #: weight of the generalised IoU

    @classmethod
    def from_config(cls, cfg: CfgNode) -> "HungarianMatcher":
        """Build it from ``MODEL.DETR.MATCHER``."""
        matcher = cfg.MODEL.DETR.MATCHER
        return cls(
            class_cost=matcher.CLASS_COST, box_cost=matcher.BOX_COST, giou_cost=matcher.GIOU_COST
        )

    @torch.no_grad()
    def __call__(
        self, predictions: Sequence[Prediction], targets: Sequence[Targets]
    ) -> list[MatchIndices]:
        """Match sets of predictions, each with ``targets`` of its own, in one copy to the CPU."""
        # More than half of the time that this package takes to import, and for training alone.
        from scipy.optimize import linear_sum_assignment

        costs = [self.cost(p, t) for p, t in zip(predictions, targets, strict=True)]
        flat = torch.cat([cost.flatten() for cost in costs]).cpu().numpy()
        replaced = flat.size - int(np.isfinite(flat).sum())
        count_replaced("matching_costs", replaced, "costs of the matching are not finite")
        flat = np.nan_to_num(flat, nan=WORST_COST, posinf=WORST_COST, neginf=-WORST_COST)
        parts = np.split(flat, np.cumsum([cost.numel() for cost in costs])[:-1])
        matches = []
        for cost, part, target in zip(costs, parts, targets, strict=True):
            matrices = zip(part.reshape(cost.shape), target.counts, strict=True)
            pairs = [linear_sum_assignment(matrix[:, :count]) for matrix, count in matrices]
            matches.append(MatchIndices.from_arrays(pairs, cost.device))
        return matches

    def cost(self, prediction: Prediction, targets: Targets) -> Tensor:
        """Cost (B, Q, T) of every pair of a query and a padded ground-truth box."""
        logits = prediction.logits
        target_classes = targets.labels[:, None].expand(-1, logits.shape[1], -1)
        prob = logits.gather(2, target_classes).sigmoid()  # (B, Q, T)
        pos_cost = -(prob + 1e-8).log() * FOCAL_ALPHA * (1 - prob) ** FOCAL_GAMMA
        neg_cost = -(1 - prob + 1e-8).log() * (1 - FOCAL_ALPHA) * prob**FOCAL_GAMMA
        boxes, target_boxes = prediction.boxes, targets.boxes.to(prediction.boxes.dtype)
        corners = [box_convert(x, "cxcywh", "xyxy") for x in (boxes, target_boxes)]
        giou = torch.vmap(generalized_box_iou)(*corners)
        distance = torch.cdist(boxes, target_boxes, p=1)
        cost = self.class_cost * (pos_cost - neg_cost)
        return cost + self.box_cost * distance - self.giou_cost * giou
