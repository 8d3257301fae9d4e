"""Which tokens are foreground, and the loss and the recall of their scores."""

import numpy as np
import pytest
import torch

from lite_focus_detr.modeling.encoder.foreground import (
    ForegroundRule,
    assign_foreground,
    foreground_loss,
    foreground_recall,
)
from lite_focus_detr.modeling.structures import FeatureTokens, Targets, TokenSelection

RANGES = [(-1, 64), (64, 128), (128, 256), (256, 999999)]


SHAPES = ((32, 40), (16, 20), (8, 10), (4, 5))


def label(boxes, distance="max_side", ranges=RANGES, ranges_at=0):
    """Labels of a 256 x 320 image, one map for each level; boxes (x, y, w, h) in pixels."""
    tokens = FeatureTokens(
        *[torch.empty(0)] * 5,
        spatial_shapes=SHAPES,
        num_valid=(1700,),
        image_sizes=((256, 320),),
        strides=(8, 16, 32, 64),
    )
    boxes = torch.tensor(boxes, dtype=torch.float32).reshape(1, -1, 4)
    boxes = torch.cat((boxes[..., :2] + boxes[..., 2:] / 2, boxes[..., 2:]), -1)
    boxes = boxes / torch.tensor([320.0, 256.0, 320.0, 256.0])
    targets = Targets(torch.zeros(1, 1, dtype=torch.int64), boxes, (boxes.shape[1],))
    rule = ForegroundRule(ranges, ranges_at, distance)
    labels = assign_foreground(tokens, targets, rule)[0]
    parts = labels.split([height * width for height, width in SHAPES])
    return [part.view(shape) for part, shape in zip(parts, SHAPES, strict=True)]


def test_a_small_box_is_found_on_the_finest_level():
    levels = label([[16, 24, 40, 32]])  # Centres 4, 12, 20, ... strictly inside.
    expected = torch.zeros(32, 40, dtype=torch.bool)
    expected[3:7, 2:7] = True
    assert torch.equal(levels[0], expected)
    assert not any(level.any() for level in levels[1:])


def test_a_token_on_the_side_of_a_box_is_outside():
    assert label([[4, 4, 16, 16]])[0].nonzero().tolist() == [[1, 1]]


def test_max_side_is_the_distance_of_the_token_to_the_farthest_side():
    levels = label([[0, 0, 100, 100]])
    for index, (stride, level) in enumerate(zip((8, 16), levels[:2], strict=True)):
        height, width = SHAPES[index]
        for row in range(height):
            for column in range(width):
                x, y = column * stride + stride // 2, row * stride + stride // 2
                far = max(x, y, 100 - x, 100 - y)
                inside = x < 100 and y < 100
                low, high = RANGES[index]
                assert level[row, column].item() == (inside and low < far <= high)


def test_half_size_takes_one_level_for_the_whole_box():
    levels = label([[0, 0, 200, 100]], "half_size")  # Half of the longer side is 100.
    assert [level.any().item() for level in levels] == [False, True, False, False]
    assert levels[1].sum() == 12 * 6  # Centres 8, 24, ... 184 and 8, ... 88.


def test_overlapping_ranges_find_a_box_on_two_levels():
    overlapping = [(-1, 64), (64, 256), (128, 512), (256, 999999)]
    levels = label([[0, 0, 300, 60]], "half_size", overlapping)
    assert [level.any().item() for level in levels] == [False, True, True, False]


def test_an_image_without_boxes_has_no_foreground():
    assert not any(level.any() for level in label([]))


def test_ranges_shrink_with_the_short_side_of_the_image():
    box = [[16, 24, 40, 32]]
    assert label(box)[0].any()
    # 256 is 0.32 of 800: the finest level is for distances of up to 20.48 pixels.
    levels = label(box, ranges_at=800)
    for level, stride, (low, high) in zip(levels, (8, 16, 32, 64), RANGES, strict=True):
        for row, column in np.ndindex(*level.shape):
            x, y = column * stride + stride // 2, row * stride + stride // 2
            sides = (x - 16, 56 - x, y - 24, 56 - y)
            expected = min(sides) > 0 and 0.32 * low < max(sides) <= 0.32 * high
            assert level[row, column].item() == expected
    assert levels[1].any()


def test_an_image_without_foreground_is_not_divided():
    logits = torch.tensor([[1.0, -2.0], [0.5, 3.0]])
    wanted = torch.tensor([[False, False], [True, True]])
    p = logits.sigmoid()
    background = (-(0.75 * p**2 * (1 - p).log()))[0].sum()
    foreground = (-(0.25 * (1 - p) ** 2 * p.log()))[1].sum() / 2
    expected = (background + foreground) / 2
    torch.testing.assert_close(foreground_loss(logits, wanted), expected)


def test_the_loss_of_a_sure_mistake_is_finite():
    logits = torch.tensor([[40.0]], requires_grad=True)
    loss = foreground_loss(logits, torch.tensor([[False]]))
    loss.backward()
    assert loss.item() == pytest.approx(30.0, rel=1e-3)
    assert logits.grad.item() == pytest.approx(0.75, rel=1e-3)


def test_fillers_are_not_recalled():
    wanted = torch.tensor([[True, True, False, False], [True, False, True, True]])
    kept = torch.tensor([[True, True], [True, False]])  # The second image may keep one token.
    selection = TokenSelection(torch.tensor([[0, 2], [3, 2]]), kept)
    assert foreground_recall(selection, wanted) == pytest.approx(2 / 5)
    assert foreground_recall(selection, torch.zeros_like(wanted)) == 1
