import numpy as np
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb

from lite_focus_detr.analysis.sampling import Samples
from lite_focus_detr.visualization.attention import SampledModel, draw_samples, query_color
from lite_focus_detr.visualization.style import Caption

CAPTION = Caption("attention samples", "a.png")


def test_panels_show_each_level_with_its_stride_and_share_of_the_weight():
    weights = torch.tensor([0.1, 0.3]).view(1, 1, 2, 1).expand(2, 4, 2, 3)
    samples = Samples(torch.rand(2, 2), torch.rand(2, 4, 2, 3, 2), weights)
    image = np.zeros((40, 60, 3), dtype=np.uint8)
    models = [SampledModel(name, samples, (8, 16)) for name in ("key-aware", "plain")]
    figure = draw_samples(image, models, CAPTION)
    titles = [axes.get_title(loc="left").strip() for axes in figure.axes]
    assert titles == 2 * ["stride 8: 25% of the weight", "stride 16: 75% of the weight"]
    names = [text.get_text() for axes in figure.axes for text in axes.texts]
    assert names == ["key-aware", "plain"]


def test_samples_have_the_colour_of_their_query_and_the_area_of_their_weight():
    weights = torch.rand(2, 4, 1, 3)
    samples = Samples(torch.rand(2, 2), torch.rand(2, 4, 1, 3, 2), weights)
    boxes = torch.tensor([[0.1, 0.2, 0.4, 0.8], [0.5, 0.5, 1.0, 1.0]])
    image = np.zeros((40, 60, 3), dtype=np.uint8)
    figure = draw_samples(image, [SampledModel("plain", samples, (8,), boxes)], CAPTION)
    (panel,) = figure.axes
    for index in range(2):
        points, _, cross = panel.collections[3 * index : 3 * index + 3]
        color = to_rgb(query_color(index))
        np.testing.assert_allclose(points.get_offsets(), samples.locations[index].flatten(0, -2))
        np.testing.assert_allclose(cross.get_offsets()[0], samples.queries[index])
        np.testing.assert_allclose(points.get_facecolor()[0, :3], color)
        np.testing.assert_allclose(cross.get_facecolor()[0, :3], color)
        sizes, weight = points.get_sizes(), weights[index].flatten().numpy()
        slopes = np.diff(sizes) / np.diff(weight)
        np.testing.assert_allclose(slopes, slopes[0], rtol=1e-3)
        assert slopes[0] > 0
        box = panel.patches[index]
        assert box.get_bbox().extents == pytest.approx(boxes[index].tolist())
        np.testing.assert_allclose(box.get_edgecolor()[:3], color)
    (legend,) = figure.legends
    texts = [text.get_text() for text in legend.get_texts()]
    assert texts[:2] == ["query 1, its samples", "query 2, its samples"]
    assert texts[2:] == [f"{share} of a head's weight" for share in ("1%", "5%", "20%")]


def test_a_model_with_fewer_levels_leaves_panels_empty():
    rows = []
    for strides in ((8, 16), (8,)):
        samples = Samples(
            torch.rand(1, 2),
            torch.rand(1, 2, len(strides), 3, 2),
            torch.full((1, 2, len(strides), 3), 0.1),
        )
        rows.append(SampledModel("model", samples, strides))
    figure = draw_samples(np.zeros((40, 60, 3), np.uint8), rows, CAPTION)
    assert [axes.get_visible() for axes in figure.axes] == [True, True, True, False]


def test_panels_have_the_top_of_the_image_above():
    locations = torch.tensor([[0.5, 0.1], [0.5, 0.9]]).view(1, 1, 1, 2, 2)
    samples = Samples(torch.tensor([[0.25, 0.25]]), locations, torch.full((1, 1, 1, 2), 0.5))
    image = np.zeros((40, 60, 3), dtype=np.uint8)
    image[:20] = [255, 0, 0]
    image[20:] = [0, 0, 255]
    figure = draw_samples(image, [SampledModel("plain", samples, (8,))], CAPTION)
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
