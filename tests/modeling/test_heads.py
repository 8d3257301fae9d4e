"""Class and box heads against their formulas."""

import pytest
import torch

from lite_focus_detr.modeling.heads import DetectionHeads

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
