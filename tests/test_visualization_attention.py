import numpy as np
import pytest
import torch
from detectron2.structures import ImageList
from matplotlib.backends.backend_agg import FigureCanvasAgg

from lite_focus_detr import ops
from lite_focus_detr.modeling.attention import DeformableAttention, KeyAwareAttention
from lite_focus_detr.modeling.tokens import TokenBuilder
from lite_focus_detr.visualization_attention import (
    Samples,
    attention_weights,
    draw_samples,
    nearest_samples,
    record_calls,
)

SIZE = {"embed_dim": 32, "num_heads": 4, "num_levels": 2, "num_points": 3}
KINDS = [
    DeformableAttention(**SIZE),
    DeformableAttention(shared_offsets=True, **SIZE),
    KeyAwareAttention(**SIZE),
    KeyAwareAttention(projected_key=True, **SIZE),
]


@pytest.fixture(params=KINDS, ids=["plain", "shared offsets", "key-aware", "projected key"])
def attention(request):
    with torch.no_grad():
        for parameter in request.param.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
    return request.param


@pytest.fixture
def tokens():
    """One image that fills three quarters of the canvas."""
    builder = TokenBuilder(
        in_channels=[1, 1], num_levels=2, embed_dim=32, norm_groups=4, temperature=20.0, offset=0.0
    )
    images = ImageList(torch.empty(1, 3, 64, 64), [(64, 48)])
    return builder([torch.randn(1, 32, 8, 8), torch.randn(1, 32, 4, 4)], images)


def test_weights_times_sampled_values_are_what_the_attention_computes(attention, tokens):
    query = torch.randn(1, 5, 32)
    projected = attention.project((tokens.features,), tokens)
    points = attention.points(query, tokens.to_levels(torch.rand(1, 5, 2)), tokens)
    weights = attention_weights(attention, query, projected, points)
    locations = ops.reference.sampling_locations(*points)
    summed = ops.reference.multi_scale_deformable_attention(
        projected.value, tokens.spatial_shapes, locations, weights.view(locations.shape[:-1])
    )
    torch.testing.assert_close(summed, attention.sample(query, projected, points))


def test_the_query_nearest_to_a_point_is_found_in_any_call(attention, tokens):
    references = torch.tensor([[[0.1, 0.1], [0.5, 0.5], [0.9, 0.2], [0.3, 0.8]]])
    query = torch.randn(1, 4, 32)
    projected = attention.project((tokens.features,), tokens)
    levels = tokens.to_levels(references)
    with record_calls(attention) as calls:
        attention.attend(query[:, :3], levels[:, :3], projected, tokens)
        attention.attend(query[:, 3:], levels[:, 3:], projected, tokens)
    samples = nearest_samples(attention, calls, torch.tensor([[0.35, 0.75], [0.45, 0.5]]))
    torch.testing.assert_close(samples.queries, references[0, [3, 1]])
    points = attention.points(query[:, [3, 1]], levels[:, [3, 1]], tokens)
    # The image ends at three quarters of the canvas in x.
    expected = ops.reference.sampling_locations(*points)[0] / torch.tensor([0.75, 1.0])
    torch.testing.assert_close(samples.locations, expected)
    expected = attention_weights(attention, query[:, [3, 1]], projected, points)[0]
    torch.testing.assert_close(samples.weights.flatten(2), expected)


def test_recording_ends_with_the_block(attention, tokens):
    with record_calls(attention) as calls:
        pass
    attention(torch.randn(1, 2, 32), torch.rand(1, 2, 2, 2), tokens.features, tokens)
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
