"""Hungarian matching of predictions and ground truth."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode, configurable
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torchvision.ops import box_convert, generalized_box_iou

from .losses import FOCAL_ALPHA, FOCAL_GAMMA
from .structures import MatchIndices, Prediction, Targets

# Stands for a cost that is not a number: worse than any real one, and the assignment exists.
WORST_COST = 1e6


class HungarianMatcher:
    """One-to-one assignment of least cost (DETR, eq. 1, with the focal cost of Deformable DETR)."""

    @configurable
    def __init__(self, *, class_cost: float, box_cost: float, giou_cost: float) -> None:
        """
        Args:
            class_cost: weight of the focal cost.
            box_cost: weight of the L1 distance.
            giou_cost: weight of the generalised IoU.
        """
        self.class_cost = class_cost
        self.box_cost = box_cost
        self.giou_cost = giou_cost

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """Arguments of the constructor from ``MODEL.DETR.MATCHER``."""
        matcher = cfg.MODEL.DETR.MATCHER
        return {
            "class_cost": matcher.CLASS_COST,
            "box_cost": matcher.BOX_COST,
            "giou_cost": matcher.GIOU_COST,
        }

    @torch.no_grad()
    def __call__(
        self, predictions: Sequence[Prediction], targets: Sequence[Targets]
    ) -> list[MatchIndices]:
        """Match sets of predictions with one device-to-host copy for all of them.

        Args:
            predictions: each of any number of queries.
            targets: the ground truth for each of them.
        """
        costs = [self.cost(p, t) for p, t in zip(predictions, targets, strict=True)]
        flat = torch.cat([cost.flatten() for cost in costs]).cpu().numpy()
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
        boxes = prediction.boxes
        target_boxes = targets.boxes.to(boxes.dtype)
        corners = [box_convert(x, "cxcywh", "xyxy") for x in (boxes, target_boxes)]
        giou = torch.vmap(generalized_box_iou)(*corners)
        distance = torch.cdist(boxes, target_boxes, p=1)
        cost = self.class_cost * (pos_cost - neg_cost)
        cost = cost + self.box_cost * distance - self.giou_cost * giou
        return cost.nan_to_num(WORST_COST, WORST_COST, -WORST_COST)
