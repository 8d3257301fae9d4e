import numpy as np
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg

from lite_focus_detr import ops
from lite_focus_detr.modeling.attention import (
    AttentionConfig,
    DeformableAttention,
    KeyAwareAttention,
)
from lite_focus_detr.visualization.attention import (
    Samples,
    draw_samples,
    nearest_samples,
    record_calls,
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


def test_panels_show_each_level_with_its_share_of_the_weight():
    weights = torch.tensor([0.1, 0.3]).view(1, 1, 2, 1).expand(2, 4, 2, 3)
    samples = Samples(torch.rand(2, 2), torch.rand(2, 4, 2, 3, 2), weights)
    image = np.zeros((40, 60, 3), dtype=np.uint8)
    figure = draw_samples(image, {"key-aware": samples, "plain": samples})
    titles = [axes.get_title() for axes in figure.axes]
    assert titles == [
        f"{name}, level {level}: {share}"
        for name in ("key-aware", "plain")
        for level, share in ((1, "25%"), (2, "75%"))
    ]
    points, cross = figure.axes[0].collections
    np.testing.assert_allclose(points.get_offsets(), samples.locations[:, :, 0].flatten(0, -2))
    np.testing.assert_allclose(cross.get_offsets(), samples.queries)


def test_panels_have_the_top_of_the_image_above():
    locations = torch.tensor([[0.5, 0.1], [0.5, 0.9]]).view(1, 1, 1, 2, 2)
    samples = Samples(torch.tensor([[0.25, 0.25]]), locations, torch.full((1, 1, 1, 2), 0.5))
    image = np.zeros((40, 60, 3), dtype=np.uint8)
    image[:20] = [255, 0, 0]
    image[20:] = [0, 0, 255]
    figure = draw_samples(image, {"plain": samples})
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    (panel,) = figure.axes
    upper, lower, top, bottom = panel.transData.transform(
        [[0.5, 0.1], [0.5, 0.9], [0.8, 0.2], [0.8, 0.8]]
    )
    assert upper[1] > lower[1]
    rows = np.asarray(canvas.buffer_rgba())[::-1]  # From the bottom, as display coordinates.
    for place, channel in ((top, 0), (bottom, 2)):
        column, row = place.astype(int)
        assert rows[row, column, :3].argmax() == channel
