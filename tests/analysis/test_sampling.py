import pytest
import torch
from detectron2.modeling import build_model

from lite_focus_detr import ops
from lite_focus_detr.analysis.sampling import (
    attention_name,
    find_attention,
    nearest_samples,
    query_samples,
    record_calls,
    reference_points,
)
from lite_focus_detr.modeling.attention import (
    AttentionConfig,
    DeformableAttention,
    KeyAwareAttention,
)

SIZE = {"embed_dim": 32, "num_heads": 4, "num_levels": 2, "num_points": 3}
KINDS = [
    DeformableAttention(AttentionConfig(**SIZE)),
    DeformableAttention(AttentionConfig(shared_offsets=True, **SIZE)),
    KeyAwareAttention(AttentionConfig(**SIZE)),
    KeyAwareAttention(AttentionConfig(projected_key=True, **SIZE)),
    KeyAwareAttention(AttentionConfig(mask_outside=True, **SIZE)),
]
SHAPES = ((8, 8), (4, 4))
# The image fills three quarters of the canvas.
RATIOS = torch.tensor([[0.75, 1.0], [0.75, 1.0]])


@pytest.fixture(
    params=KINDS, ids=["plain", "shared offsets", "key-aware", "projected key", "masked"]
)
def attention(request):
    with torch.no_grad():
        for parameter in request.param.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
    return request.param


@pytest.fixture
def value():
    return torch.randn(1, 80, 32)


@pytest.fixture
def padding_mask():
    levels = []
    for height, width in SHAPES:
        outside = torch.arange(width) >= 0.75 * width
        levels.append(outside.expand(height, width).flatten())
    return torch.cat(levels)[None]


@pytest.fixture
def queries():
    """Four queries of the image and their references, (x, y) of the image."""
    references = torch.tensor([[[0.1, 0.1], [0.5, 0.5], [0.9, 0.2], [0.3, 0.8]]])
    return torch.randn(1, 4, 32), references


POINTS = torch.tensor([[0.35, 0.75], [0.45, 0.5]])


@torch.no_grad()
def test_weights_times_sampled_values_are_what_the_attention_computes(
    attention, value, padding_mask, queries
):
    query, references = queries[0], queries[1][:, :, None] * RATIOS
    with record_calls(attention) as calls:
        output = attention(query, references, value, SHAPES, padding_mask)
    samples = nearest_samples(attention, calls, POINTS, RATIOS)
    projected = attention.project(value, padding_mask).value
    summed = ops.reference.multi_scale_deformable_attention(
        projected, SHAPES, (samples.locations * RATIOS[:, None])[None], samples.weights[None]
    )
    torch.testing.assert_close(attention.output_proj(summed), output[:, [3, 1]])


@torch.no_grad()
def test_points_that_are_masked_are_drawn_without_weight(value):
    attention = KeyAwareAttention(AttentionConfig(mask_outside=True, **SIZE))
    # At the start of a training the points lie 1 to 3 pixels to the right, below, to the left and
    # above, for one head each. The levels have 8 x 8 and 4 x 4 pixels.
    places = torch.tensor([[0.01, 0.01], [0.5, 0.5]])
    references = places[None, :, None].expand(1, 2, 2, 2)
    with record_calls(attention) as calls:
        attention(torch.randn(1, 2, 32), references, value, SHAPES)
    corner, centre = nearest_samples(attention, calls, places, torch.ones(2, 2)).weights
    expected = torch.tensor([1.0, 1.0, 0.0, 0.0])
    torch.testing.assert_close(corner.sum((1, 2)), expected)
    torch.testing.assert_close(centre.sum((1, 2)), torch.ones(4))
    is_inside = torch.tensor([[True, True, True], [True, True, False]])
    assert torch.equal(centre > 0, is_inside.expand(4, 2, 3))


@torch.no_grad()
@pytest.mark.parametrize("projected", [False, True])
def test_the_query_nearest_to_a_point_is_found_in_any_call(
    attention, value, padding_mask, queries, projected
):
    query, references = queries
    levels = references[:, :, None] * RATIOS
    tokens = attention.project(value, padding_mask) if projected else value
    with record_calls(attention) as calls:
        attention(query[:, :3], levels[:, :3], tokens, SHAPES, padding_mask)
        attention(query[:, 3:], levels[:, 3:], tokens, SHAPES, padding_mask)
    samples = nearest_samples(attention, calls, POINTS, RATIOS)
    torch.testing.assert_close(samples.queries, references[0, [3, 1]])
    expected = attention.sampling(query[:, [3, 1]], levels[:, [3, 1]], value, SHAPES, padding_mask)
    torch.testing.assert_close(samples.locations, expected.locations[0] / RATIOS[:, None])
    torch.testing.assert_close(samples.weights, expected.weights[0])


def test_recording_ends_with_the_block(attention, value):
    with record_calls(attention) as calls:
        pass
    attention(torch.randn(1, 2, 32), torch.rand(1, 2, 2, 2), value, SHAPES)
    assert calls == []


@torch.no_grad()
def test_queries_are_counted_through_all_calls(attention, value, padding_mask, queries):
    query, references = queries
    levels = references[:, :, None] * RATIOS
    with record_calls(attention) as calls:
        attention(query[:, :1], levels[:, :1], value, SHAPES, padding_mask)
        attention(query[:, 1:], levels[:, 1:], value, SHAPES, padding_mask)
    torch.testing.assert_close(reference_points(calls, RATIOS), references[0])
    chosen = torch.tensor([2, 0, 3])
    samples = query_samples(attention, calls, chosen, RATIOS)
    expected = attention.sampling(query[:, chosen], levels[:, chosen], value, SHAPES, padding_mask)
    torch.testing.assert_close(samples.queries, references[0, chosen])
    torch.testing.assert_close(samples.locations, expected.locations[0] / RATIOS[:, None])
    torch.testing.assert_close(samples.weights, expected.weights[0])


def test_layers_are_found_by_number_from_either_end(tiny_config):
    model = build_model(tiny_config())
    for part in ("encoder", "decoder"):
        first, last = (find_attention(model, part, index) for index in (0, -1))
        assert first is not last
        assert find_attention(model, part, 1) is last
        assert attention_name(model, part, -1) == f"{part} layer 2 of 2"
        assert attention_name(model, part, 0) == f"{part} layer 1 of 2"
        with pytest.raises(ValueError, match=f"--layer 2: the {part} has 2 layers"):
            find_attention(model, part, 2)
