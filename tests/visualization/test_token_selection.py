import numpy as np
import torch

from lite_focus_detr.analysis.token_selection import ImageTrace
from lite_focus_detr.modeling.structures import FeatureTokens
from lite_focus_detr.visualization.style import Caption
from lite_focus_detr.visualization.token_selection import Truth, draw_selection

CAPTION = Caption("kept tokens", "a.png")


def draw(image, trace):
    return draw_selection(Truth(image, [("cell 3", (255, 0, 0))]), image, trace, CAPTION)


def test_a_kept_token_is_bright_and_a_dropped_one_dark():
    # An image of 40 x 60 pixels seen at half size: 3 x 4 tokens of 8 and 2 x 2 of 16 pixels.
    tokens = FeatureTokens(
        *[torch.empty(0)] * 5,
        spatial_shapes=((3, 4), (2, 2)),
        num_valid=(16,),
        image_sizes=((20, 30),),
        strides=(8, 16),
    )
    kept = torch.zeros(1, 16, dtype=torch.bool)
    kept[0, [5, 15]] = True  # Row 1, column 1 of the fine level; the last of the coarse one.
    objects = torch.zeros_like(kept)
    objects[0, 15] = True
    trace = ImageTrace(tokens, torch.randn(16), kept, objects, torch.rand(16))
    image = np.full((40, 60, 3), 255, dtype=np.uint8)
    figure = draw(image, trace)
    assert [axis.get_title(loc="left") for axis in figure.axes[:6]] == [
        "ground truth",
        "stride 8, 3x4 tokens",
        "stride 16, 2x2 tokens",
        "layer 1: 2 kept, 12%",
        "1 kept, 0 objects",
        "1 kept, 1 objects",
    ]
    fine, coarse = (np.asarray(axis.images[0].get_array()) for axis in figure.axes[4:6])
    bright = np.zeros((40, 60), dtype=bool)
    bright[16:32, 16:32] = True
    np.testing.assert_array_equal(fine.sum(-1) > 1.5, bright)
    bright = np.zeros((40, 60), dtype=bool)
    bright[32:, 32:] = True
    np.testing.assert_array_equal(coarse.sum(-1) > 1.5, bright)
    assert coarse[-1, -1, 0] > coarse[-1, -1, 2]  # An object token is red,
    assert fine[20, 20, 2] > fine[20, 20, 0]  # another one blue.


def test_rows_and_columns_are_resized_each_by_its_own_factor():
    # An image of 40 x 80 pixels seen as 64 x 64: 4 x 4 tokens of 10 x 20 pixels each.
    tokens = FeatureTokens(
        *[torch.empty(0)] * 5,
        spatial_shapes=((4, 4),),
        num_valid=(16,),
        image_sizes=((64, 64),),
        strides=(16,),
    )
    kept = torch.zeros(1, 16, dtype=torch.bool)
    kept[0, 1 * 4 + 2] = True
    trace = ImageTrace(tokens, torch.zeros(16), kept, torch.zeros_like(kept), torch.zeros(16))
    image = np.full((40, 80, 3), 255, dtype=np.uint8)
    picture = np.asarray(draw(image, trace).axes[3].images[0].get_array())
    bright = np.zeros((40, 80), dtype=bool)
    bright[10:20, 40:60] = True
    np.testing.assert_array_equal(picture.sum(-1) > 1.5, bright)


def test_every_column_of_a_wide_image_is_painted_with_its_own_token():
    # 2 x 6 tokens of 10 pixels.
    tokens = FeatureTokens(
        *[torch.empty(0)] * 5,
        spatial_shapes=((2, 6),),
        num_valid=(12,),
        image_sizes=((20, 60),),
        strides=(10,),
    )
    kept = torch.zeros(1, 12, dtype=torch.bool)
    kept[0, [3, 11]] = True
    trace = ImageTrace(tokens, torch.zeros(12), kept, torch.zeros_like(kept), torch.zeros(12))
    image = np.full((20, 60, 3), 255, dtype=np.uint8)
    picture = np.asarray(draw(image, trace).axes[3].images[0].get_array())
    bright = np.zeros((20, 60), dtype=bool)
    bright[:10, 30:40] = bright[10:, 50:] = True
    np.testing.assert_array_equal(picture.sum(-1) > 1.5, bright)


def test_colours_are_explained():
    tokens = FeatureTokens(
        *[torch.empty(0)] * 5,
        spatial_shapes=((3, 4), (2, 2)),
        num_valid=(16,),
        image_sizes=((20, 30),),
        strides=(8, 16),
    )
    kept = torch.zeros(2, 16, dtype=torch.bool)
    trace = ImageTrace(tokens, torch.randn(16), kept, torch.zeros_like(kept), torch.rand(16))
    figure = draw(np.zeros((40, 60, 3), np.uint8), trace)
    bars = [axis.get_ylabel() for axis in figure.axes[9:]]
    assert bars == ["foreground probability", "levels that keep a token"]
    (legend,) = figure.legends
    texts = [text.get_text() for text in legend.get_texts()]
    assert texts == ["kept", "kept, object token", "dropped", "cell 3"]
    # Without a dual attention there are no object tokens to count.
    assert figure.axes[4].get_title(loc="left") == "0 kept"
