"""Where the queries of the decoder come from."""

import pytest
import torch
from detectron2.structures import ImageList

from lite_focus_detr.modeling.proposals import ProposalHead, token_anchors
from lite_focus_detr.modeling.query_selectors import (
    LearnedBoxQuerySelector,
    LearnedPointQuerySelector,
    MixedQuerySelector,
    ProposalConfig,
    TokenContentQuerySelector,
    TwoStageQuerySelector,
    build_query_selector,
)
from lite_focus_detr.modeling.tokens import flatten_levels


def sigmoid(x):
    return 1 / (1 + (-x.double()).exp())


@pytest.fixture
def memory():
    return torch.randn(2, 9, 16)


@pytest.mark.parametrize("autocast", [False, True])
def test_learned_points_are_read_off_the_position_in_full_precision(memory, autocast):
    torch.manual_seed(0)
    selector = LearnedPointQuerySelector(num_queries=50, embed_dim=16)
    selector.reference_points.bias.data.normal_()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        queries = selector(memory)
    # The first half of each embedding is the position, the second the content.
    position, content = selector.query_embed.weight[:, :16], selector.query_embed.weight[:, 16:]
    layer = selector.reference_points
    expected = sigmoid(position.double() @ layer.weight.double().T + layer.bias.double())
    assert queries.reference_points.dtype == torch.float32
    for image in range(2):
        # bfloat16 is off by 0.004, more than two pixels of an image of 800.
        torch.testing.assert_close(
            queries.reference_points[image].double(), expected, rtol=0, atol=1e-6
        )
        assert torch.equal(queries.position[image], position)
        assert torch.equal(queries.content[image], content)


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("indicator", [False, True])
def test_learned_boxes_are_the_sigmoid_of_their_anchors(memory, autocast, indicator):
    torch.manual_seed(0)
    selector = LearnedBoxQuerySelector(num_queries=50, embed_dim=16, indicator=indicator)
    selector.tgt_embed.weight.data.normal_()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        queries = selector(memory)
    expected = sigmoid(selector.refpoint_embed.weight).expand(2, -1, -1)
    torch.testing.assert_close(queries.reference_points.double(), expected, rtol=0, atol=1e-6)
    learned = 15 if indicator else 16
    assert torch.equal(queries.content[1, :, :learned], selector.tgt_embed.weight)
    assert (queries.content[..., learned:] == 0).all()
    assert queries.position is None


SIZES = [(64, 88), (40, 64)]
LEVELS = [(8, 12), (4, 6), (2, 3), (1, 2)]


@pytest.fixture
def propose():
    """Queries of a selector for random tokens of two images, both of them padded."""

    def run(selector, indices=None):
        torch.manual_seed(0)
        levels = [torch.randn(2, 16, *shape) for shape in LEVELS]
        images = ImageList(torch.empty(2, 3, 64, 96), SIZES)
        tokens = flatten_levels(
            levels,
            torch.randn(4, 16),
            images,
            strides=(8, 16, 32, 64),
            position=(20.0, 0.0),
        )
        head = ProposalHead(embed_dim=16, num_classes=5)
        for parameter in head.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
        memory = torch.randn(2, 128, 16, requires_grad=True)
        anchors, valid = token_anchors(tokens)
        projected = head.project(memory, valid)
        logits, boxes = head.class_embed(projected), head.box_logits(projected, anchors).sigmoid()
        return selector(memory, tokens, head, indices), memory, tokens, logits, boxes

    return run


def selection(
    num_queries, class_agnostic=False, proposal_boxes="selected", proposal_loss="selected"
):
    return ProposalConfig(
        num_queries=num_queries,
        embed_dim=16,
        class_agnostic=class_agnostic,
        proposal_boxes=proposal_boxes,
        proposal_loss=proposal_loss,
    )


SELECTORS = [TwoStageQuerySelector, TokenContentQuerySelector, MixedQuerySelector]


@pytest.mark.parametrize("class_agnostic", [False, True])
@pytest.mark.parametrize("selector", SELECTORS)
def test_proposals_are_the_tokens_of_the_best_scores_without_padding(
    propose, selector, class_agnostic
):
    queries, _, tokens, logits, boxes = propose(selector(selection(30, class_agnostic)))
    scores = logits[..., 0] if class_agnostic else logits.max(-1).values
    for image in range(2):
        inside = [i for i in range(128) if not tokens.padding_mask[image, i]]
        best = sorted(inside, key=lambda i: -scores[image, i].item())[:30]
        assert queries.indices[image].tolist() == best
        torch.testing.assert_close(queries.reference_points[image], boxes[image, best])
    assert queries.padding_mask is None
    assert not queries.reference_points.requires_grad


@pytest.mark.parametrize("selector", SELECTORS)
def test_slots_beyond_the_tokens_of_an_image_are_padding(propose, selector):
    queries, _, tokens, *_ = propose(selector(selection(500)))
    inside = (~tokens.padding_mask).sum(1)
    # As many slots as the larger image has tokens, which are not all.
    count = inside.max().item()
    assert count < 128
    assert queries.indices.shape == (2, count)
    expected = torch.arange(count) >= inside[:, None]
    assert torch.equal(queries.padding_mask, expected)
    assert queries.reference_points[~queries.padding_mask].isfinite().all()


@pytest.mark.parametrize(
    ("options", "count"),
    [
        ({}, 30),
        ({"proposal_boxes": "all"}, 30),
        ({"proposal_loss": "all"}, 128),
        ({"class_agnostic": True}, 128),
    ],
)
@pytest.mark.parametrize("selector", SELECTORS)
def test_all_tokens_are_trained_if_asked_for_or_of_one_class(propose, selector, options, count):
    queries, _, _, logits, boxes = propose(selector(selection(30, **options)))
    prediction = queries.proposals
    if count == 30:
        rows = queries.indices[..., None]
        logits, boxes = logits.take_along_dim(rows, 1), boxes.take_along_dim(rows, 1)
    torch.testing.assert_close(prediction.logits, logits)
    torch.testing.assert_close(prediction.boxes, boxes)


def test_content_is_the_token_with_its_gradient_or_learned_for_each_rank(propose):
    queries, memory, *_ = propose(TokenContentQuerySelector(selection(30)))
    rows = queries.indices[..., None].expand(-1, -1, 16)
    assert torch.equal(queries.content, memory.gather(1, rows))
    (gradient,) = torch.autograd.grad(queries.content.sum(), memory)
    assert torch.equal(gradient, torch.zeros_like(memory).scatter(1, rows, 1.0))
    selector = MixedQuerySelector(selection(500))
    queries, *_ = propose(selector)
    count = queries.indices.shape[1]
    assert torch.equal(queries.content, selector.tgt_embed.weight[:count].expand(2, -1, -1))
    assert queries.position is None


@pytest.mark.parametrize("selector", SELECTORS)
def test_given_tokens_are_taken_instead_of_the_best(propose, selector):
    indices = torch.tensor([[5, 3, 100], [7, 0, 2]])
    queries, _, _, _, boxes = propose(selector(selection(30)), indices)
    assert torch.equal(queries.indices, indices)
    expected = boxes.take_along_dim(indices[..., None], 1)
    torch.testing.assert_close(queries.reference_points, expected)


@pytest.mark.parametrize(
    ("denoising", "learned"), [("none", 32), ("plain", 31), ("contrastive", 32)]
)
def test_a_channel_is_kept_for_the_indicator_of_plain_denoising_only(
    tiny_config, denoising, learned
):
    cfg = tiny_config("dn_deformable", **{"DENOISING.TYPE": denoising})
    assert build_query_selector(cfg).tgt_embed.weight.shape == (20, learned)
