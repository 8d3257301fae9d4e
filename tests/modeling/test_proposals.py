"""Anchors of tokens, and the heads that score them."""

import pytest
import torch
from detectron2.structures import ImageList
from torch import nn

from lite_focus_detr.modeling.proposals import ProposalHead, TokenHead, token_anchors
from lite_focus_detr.modeling.tokens import flatten_levels

SIZES = [(64, 96), (40, 64)]
LEVELS = [(8, 12), (4, 6), (2, 3), (1, 2)]


def flatten(levels, images, strides=(8, 16, 32, 64)):
    level_embed = torch.zeros(len(levels), levels[0].shape[1])
    return flatten_levels(levels, level_embed, images, strides=strides, position=(20.0, 0.0))


@pytest.fixture
def tokens():
    levels = [torch.randn(2, 16, *shape) for shape in LEVELS]
    return flatten(levels, ImageList(torch.zeros(2, 3, 64, 96), SIZES))


def test_anchors_double_from_level_to_level_and_vanish_outside(tokens):
    logits, valid = token_anchors(tokens)
    assert torch.isinf(logits[1][tokens.padding_mask[1]]).all()
    sides = logits.sigmoid()[0, :, 2]
    starts = [0, 96, 120, 126]
    assert [sides[i].item() for i in starts] == pytest.approx([0.05, 0.1, 0.2, 0.4])
    assert valid[0].all()


def test_anchors_whose_centre_touches_the_border_are_invalid():
    images = ImageList(torch.zeros(1, 3, 8, 8 * 60), [(8, 8 * 60)])
    tokens = flatten([torch.zeros(1, 8, 1, 60)], images)
    _, valid = token_anchors(tokens)
    # 0.5 / 60 < 0.01: the first and the last centre are too close to the border.
    assert valid[0].tolist() == [False] + [True] * 58 + [False]


def test_a_shared_class_head_has_one_name_and_scores_like_the_other():
    head = nn.Linear(16, 5)
    shared = TokenHead(embed_dim=16, class_embed=head)
    own = ProposalHead(embed_dim=16, num_classes=5)
    names = {name.split(".")[0] for name in own.state_dict()}
    assert names == {"enc_output", "enc_output_norm", "class_embed", "bbox_embed"}
    names = {name.split(".")[0] for name in shared.state_dict()}
    assert names == {"enc_output", "enc_output_norm"}
    features = torch.randn(2, 7, 16)
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
