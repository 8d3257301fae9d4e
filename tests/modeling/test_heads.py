"""Class and box heads against their formulas."""

import math

import pytest
import torch

from lite_focus_detr.modeling.box_ops import inverse_sigmoid
from lite_focus_detr.modeling.heads import DetectionHeads
from lite_focus_detr.modeling.proposals import ProposalHead, SharedTokenHead

EPS = 1e-3


@pytest.fixture
def make_heads():
    """Heads of three layers whose parameters are all random."""

    def make(share):
        torch.manual_seed(0)
        heads = DetectionHeads(
            embed_dim=16,
            num_classes=5,
            num_layers=3,
            share_heads=share,
            size_bias=0.0,
            inverse_sigmoid_eps=EPS,
        )
        for parameter in heads.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
        return heads

    return make


@pytest.mark.parametrize(
    ("probability", "ratio"),
    [
        (0.25, 1 / 3),
        # Numerator and denominator have the bound each by itself.
        (0.0, EPS / 1),
        (1.0, 1 / EPS),
        (EPS / 10, EPS / (1 - EPS / 10)),
        (1 - EPS / 10, (1 - EPS / 10) / EPS),
        (-0.5, EPS / 1),
        (1.5, 1 / EPS),
    ],
)
def test_the_inverse_sigmoid_is_bounded_by_eps(probability, ratio):
    logit = inverse_sigmoid(torch.tensor(probability, dtype=torch.float64), EPS)
    assert logit.item() == pytest.approx(math.log(ratio), abs=1e-12)


@pytest.mark.parametrize("share", [True, False])
def test_each_layer_has_its_own_heads_unless_they_are_shared(make_heads, share):
    heads = make_heads(share)
    hidden, reference = torch.randn(2, 4, 16), torch.rand(2, 4, 4)
    for layer in range(3):
        head = heads.class_embed[0 if share else layer]
        logits = hidden @ head.weight.T + head.bias
        torch.testing.assert_close(heads.predict_logits(layer, hidden), logits)
        first, second, third = heads.bbox_embed[0 if share else layer].layers
        shift = (hidden @ first.weight.T + first.bias).clamp(min=0)
        shift = (shift @ second.weight.T + second.bias).clamp(min=0) @ third.weight.T + third.bias
        anchor = (reference / (1 - reference)).log()
        boxes = 1 / (1 + (-shift - anchor).exp())
        torch.testing.assert_close(heads.predict_boxes(layer, hidden, reference), boxes)
        # A point moves the centre only.
        boxes = 1 / (1 + (-shift - torch.nn.functional.pad(anchor[..., :2], (0, 2))).exp())
        torch.testing.assert_close(heads.predict_boxes(layer, hidden, reference[..., :2]), boxes)


def test_predictions_under_autocast_are_in_full_precision(make_heads):
    heads = make_heads(share=False)
    hidden, reference = torch.randn(2, 40, 16), torch.rand(2, 40, 4) * 0.9 + 0.05
    with torch.autocast("cpu", torch.bfloat16):
        logits = heads.predict_logits(0, hidden)
        heads.bbox_embed[0].layers[2].weight.data.zero_()
        heads.bbox_embed[0].layers[2].bias.data.zero_()
        boxes = heads.predict_boxes(0, hidden, reference)
    assert logits.dtype == boxes.dtype == torch.float32
    # Without a shift the boxes are the references, unrounded.
    torch.testing.assert_close(boxes, reference, rtol=0, atol=1e-6)


def test_a_shared_class_head_has_one_name_and_scores_like_the_other(make_heads):
    heads = make_heads(share=False)
    shared = SharedTokenHead(embed_dim=16, class_embed=heads.class_embed[2])
    own = ProposalHead(embed_dim=16, num_classes=5)
    names = {name.split(".")[0] for name in own.state_dict()}
    assert names == {"enc_output", "enc_output_norm", "class_embed", "bbox_embed"}
    names = {name.split(".")[0] for name in shared.state_dict()}
    assert names == {"enc_output", "enc_output_norm"}
    features, head = torch.randn(2, 7, 16), heads.class_embed[2]
    torch.testing.assert_close(
        shared.predict_logits(features), features @ head.weight.T + head.bias
    )


def test_invalid_tokens_enter_the_projection_as_zero():
    head = ProposalHead(embed_dim=16, num_classes=5)
    memory, valid = torch.randn(2, 6, 16), torch.rand(2, 6) < 0.5
    zero = head.enc_output_norm(head.enc_output.bias).expand(2, 6, 16)
    projected = head.project(memory, valid)
    torch.testing.assert_close(projected[~valid], zero[~valid])
    expected = head.enc_output_norm(memory @ head.enc_output.weight.T + head.enc_output.bias)
    torch.testing.assert_close(projected[valid], expected[valid])
