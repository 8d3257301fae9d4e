"""The losses against their formulas."""

import math

import pytest
import torch

from lite_focus_detr.modeling.losses import box_losses, focal_loss


@pytest.mark.parametrize("logit", [-3.0, 0.0, 1.5])
def test_the_focal_loss_is_that_of_the_formula(logit):
    p = 1 / (1 + math.exp(-logit))
    losses = focal_loss(torch.tensor([logit, logit]), torch.tensor([True, False]))
    foreground = -0.25 * (1 - p) ** 2 * math.log(p)
    background = -0.75 * p**2 * math.log(1 - p)
    assert losses.tolist() == pytest.approx([foreground, background], rel=1e-5)


@pytest.mark.parametrize(
    ("eps", "giou"),
    [
        (0.0, (1 - 0.02 / 0.06) + (1 + 0.02 / 0.10)),
        (0.02, (1 - 0.02 / 0.08) + (1 + 0.02 / 0.12)),
    ],
)
def test_box_losses_are_the_sums_over_the_pairs(eps, giou):
    # The first two share half of each: intersection 0.02, union and hull 0.06. The second two are
    # apart: union 0.08, hull 0.10.
    boxes = torch.tensor([[0.5, 0.5, 0.2, 0.2], [0.1, 0.1, 0.2, 0.2]])
    targets = torch.tensor([[0.6, 0.5, 0.2, 0.2], [0.4, 0.1, 0.2, 0.2]])
    l1, found = box_losses(boxes, targets, eps)
    assert l1.item() == pytest.approx(0.1 + 0.3, rel=1e-5)
    assert found.item() == pytest.approx(giou, rel=1e-5)
