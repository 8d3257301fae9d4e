"""Hungarian matching of predictions and ground truth."""

from collections.abc import Sequence

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torchvision.ops import box_convert, generalized_box_iou

from .heads import Prediction
from .targets import Match, Targets

FOCAL_ALPHA = 0.25
FOCAL_GAMMA = 2.0
# Stands for a cost that is not a number: worse than any real one, and the assignment exists.
WORST_COST = 1e6


class HungarianMatcher:
    """One-to-one assignment of least cost (DETR, eq. 1, with the focal cost of Deformable DETR)."""

    def __init__(self, *, class_cost: float, box_cost: float, giou_cost: float) -> None:
        """Weights of the focal, L1 and generalised-IoU costs."""
        self.class_cost = class_cost
        self.box_cost = box_cost
        self.giou_cost = giou_cost

    @torch.no_grad()
    def __call__(
        self, predictions: Sequence[Prediction], targets: Sequence[Targets]
    ) -> list[Match]:
        """Match sets of predictions, each of any number of queries, and the ground truth for each
        of them; the device is read from once."""
        costs = [self.cost(p, t) for p, t in zip(predictions, targets, strict=True)]
        flat = torch.cat([cost.flatten() for cost in costs]).cpu().numpy()
        parts = np.split(flat, np.cumsum([cost.numel() for cost in costs])[:-1])
        matches = []
        for cost, part, target in zip(costs, parts, targets, strict=True):
            matrices = zip(part.reshape(cost.shape), target.counts, strict=True)
            pairs = [linear_sum_assignment(matrix[:, :count]) for matrix, count in matrices]
            matches.append(Match.from_host(pairs, cost.device))
        return matches

    def cost(self, prediction: Prediction, targets: Targets) -> Tensor:
        """Cost (B, Q, T) of every pair of a query and a padded ground-truth box."""
        logits = prediction.logits
        chosen = targets.labels[:, None].expand(-1, logits.shape[1], -1)
        probability = logits.gather(2, chosen).sigmoid()  # (B, Q, T)
        hit = -(probability + 1e-8).log() * FOCAL_ALPHA * (1 - probability) ** FOCAL_GAMMA
        miss = -(1 - probability + 1e-8).log() * (1 - FOCAL_ALPHA) * probability**FOCAL_GAMMA
        boxes = prediction.boxes
        truth = targets.boxes.to(boxes.dtype)
        corners = [box_convert(x, "cxcywh", "xyxy") for x in (boxes, truth)]
        giou = torch.vmap(generalized_box_iou)(*corners)
        distance = torch.cdist(boxes, truth, p=1)
        cost = self.class_cost * (hit - miss) + self.box_cost * distance - self.giou_cost * giou
        return cost.nan_to_num(WORST_COST, WORST_COST, -WORST_COST)
