import math

import pytest
import torch

from lite_focus_detr.modeling.criterion import Criterion, average_num_boxes
from lite_focus_detr.modeling.matcher import HungarianMatcher
from lite_focus_detr.modeling.structures import DetectorOutputs, EncoderOutput, Prediction, Targets


def criterion(class_agnostic=False, **options):
    return Criterion(
        matcher=HungarianMatcher(class_cost=2.0, box_cost=5.0, giou_cost=2.0),
        class_weight=1.0,
        box_weight=5.0,
        giou_weight=2.0,
        class_agnostic_proposals=class_agnostic,
        **options,
    )


def outputs(layers, proposals=None):
    *earlier, last = layers
    unused = {"proposal_indices": None, "memory": None, "padding_mask": None, "tokens": None}
    encoder = EncoderOutput(None)
    return DetectorOutputs(*last, earlier, proposals, encoder=encoder, **unused)


def giou_loss(predicted, true, eps):
    """The weighted loss of one box (cx, cy, w, h) and its gradient by the predicted one."""
    boxes = torch.tensor([[predicted]], requires_grad=True)
    targets = Targets(torch.tensor([[0]]), torch.tensor([[true]]), (1,))
    prediction = Prediction(torch.zeros(1, 1, 1), boxes)
    losses = criterion(giou_eps=eps)(outputs([prediction]), targets, torch.tensor(1.0))
    losses["loss_giou"].backward()
    return losses["loss_giou"].item(), boxes.grad


def test_losses_of_one_matched_and_one_background_query_have_their_closed_form():
    # Query 0 overlaps the box by half, query 1 is far away; two classes, the second is right.
    boxes = torch.tensor([[[0.5, 0.5, 0.2, 0.2], [0.9, 0.9, 0.1, 0.1]]])
    prediction = Prediction(torch.zeros(1, 2, 2), boxes)
    targets = Targets(torch.tensor([[1]]), torch.tensor([[[0.6, 0.5, 0.2, 0.2]]]), (1,))
    losses = criterion()(outputs([prediction]), targets, torch.tensor(1.0))
    # Focal at p = 0.5: one positive of weight 0.25, three negatives of weight 0.75.
    assert losses["loss_class"].item() == pytest.approx((0.25 + 3 * 0.75) * 0.25 * math.log(2))
    assert losses["loss_bbox"].item() == pytest.approx(5 * 0.1, rel=1e-5)
    # Intersection 0.02, union 0.06, hull 0.06.
    assert losses["loss_giou"].item() == pytest.approx(2 * (1 - 1 / 3), rel=1e-4)


def test_eps_counts_against_the_giou_of_small_boxes():
    box = [0.5, 0.5, 0.01, 0.01]
    # Union and hull are both the area, 1e-4: 1 - 1e-4 / (1e-4 + eps), twice.
    assert giou_loss(box, box, eps=1e-6)[0] == pytest.approx(2 / 101, rel=1e-4)
    assert giou_loss(box, box, eps=0.0)[0] == pytest.approx(0.0, abs=1e-6)


def test_without_eps_a_predicted_box_without_area_has_a_finite_loss():
    # At the centre of the true box, which is then union and hull: IoU 0, nothing else in the hull.
    loss, gradient = giou_loss([0.5, 0.5, 0.0, 0.0], [0.5, 0.5, 0.2, 0.2], eps=0.0)
    assert loss == pytest.approx(2.0)
    assert gradient.isfinite().all()


def test_class_agnostic_proposals_are_trained_with_one_class():
    prediction = Prediction(torch.zeros(1, 1, 2), torch.full((1, 1, 4), 0.5))
    prediction.logits[..., 0] = 4.0
    targets = Targets(torch.tensor([[1]]), torch.full((1, 1, 4), 0.5), (1,))
    losses = {
        flag: criterion(flag)(outputs([prediction], prediction), targets, torch.tensor(1.0))
        for flag in (False, True)
    }
    assert losses[True]["loss_class_enc"] < losses[False]["loss_class_enc"]
    assert losses[True]["loss_class"] == losses[False]["loss_class"]


def test_earlier_layers_and_proposals_are_named_by_suffix():
    prediction = Prediction(torch.zeros(1, 2, 2), torch.full((1, 2, 4), 0.5))
    targets = Targets(torch.zeros(1, 0).long(), torch.zeros(1, 0, 4), (0,))
    losses = criterion()(outputs([prediction] * 3, prediction), targets, torch.tensor(1.0))
    suffixes = ("_0", "_1", "", "_enc")
    assert set(losses) == {f"loss_{k}{s}" for k in ("class", "bbox", "giou") for s in suffixes}


def test_the_normaliser_counts_all_images_of_an_update_and_is_never_zero():
    device = torch.device("cpu")
    assert average_num_boxes((3, 0, 2), device).item() == 5.0
    assert average_num_boxes((3, 0, 2), device, steps=2).item() == 2.5
    assert average_num_boxes((0, 0), device).item() == 1.0


def test_every_weight_is_that_of_its_own_key(tiny_config):
    cfg = tiny_config(CLASS_AGNOSTIC_PROPOSALS=True)
    loss, matcher = cfg.MODEL.DETR.LOSS, cfg.MODEL.DETR.MATCHER
    loss.CLASS_WEIGHT, loss.BOX_WEIGHT, loss.GIOU_WEIGHT, loss.GIOU_EPS = 0.1, 0.2, 0.3, 0.4
    matcher.CLASS_COST, matcher.BOX_COST, matcher.GIOU_COST = 0.5, 0.6, 0.7
    expected = Criterion(
        matcher=HungarianMatcher(class_cost=0.5, box_cost=0.6, giou_cost=0.7),
        class_weight=0.1,
        box_weight=0.2,
        giou_weight=0.3,
        giou_eps=0.4,
        class_agnostic_proposals=True,
    )
    assert Criterion.from_config(cfg) == expected
