"""Where the queries of the decoder come from."""

import pytest
import torch

from lite_focus_detr.modeling.queries import LearnedBoxQueries, LearnedPointQueries


def sigmoid(x):
    return 1 / (1 + (-x.double()).exp())


@pytest.fixture
def memory():
    return torch.randn(2, 9, 16)


@pytest.mark.parametrize("autocast", [False, True])
def test_learned_points_are_read_off_the_position_in_full_precision(memory, autocast):
    torch.manual_seed(0)
    selector = LearnedPointQueries(num_queries=50, embed_dim=16)
    selector.reference_points.bias.data.normal_()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        queries = selector(memory)
    # The first half of each embedding is the position, the second the content.
    position, content = selector.query_embed.weight[:, :16], selector.query_embed.weight[:, 16:]
    layer = selector.reference_points
    expected = sigmoid(position.double() @ layer.weight.double().T + layer.bias.double())
    assert queries.reference.dtype == torch.float32
    for image in range(2):
        # bfloat16 is off by 0.004, more than two pixels of an image of 800.
        torch.testing.assert_close(queries.reference[image].double(), expected, rtol=0, atol=1e-6)
        assert torch.equal(queries.position[image], position)
        assert torch.equal(queries.content[image], content)


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("indicator", [False, True])
def test_learned_boxes_are_the_sigmoid_of_their_anchors(memory, autocast, indicator):
    torch.manual_seed(0)
    selector = LearnedBoxQueries(num_queries=50, embed_dim=16, indicator=indicator)
    selector.tgt_embed.weight.data.normal_()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        queries = selector(memory)
    expected = sigmoid(selector.refpoint_embed.weight).expand(2, -1, -1)
    torch.testing.assert_close(queries.reference.double(), expected, rtol=0, atol=1e-6)
    learned = 15 if indicator else 16
    assert torch.equal(queries.content[1, :, :learned], selector.tgt_embed.weight)
    assert (queries.content[..., learned:] == 0).all()
    assert queries.position is None
