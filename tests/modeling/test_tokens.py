import math

import pytest
import torch
from detectron2.layers import ShapeSpec
from detectron2.structures import ImageList

from lite_focus_detr.modeling.neck import Neck
from lite_focus_detr.modeling.position_encoding import sine_grid_embedding
from lite_focus_detr.modeling.proposals import token_anchors
from lite_focus_detr.modeling.tokens import flatten_levels

SIZES = [(64, 96), (40, 64)]
LEVELS = [(8, 12), (4, 6), (2, 3), (1, 2)]


@pytest.fixture
def tokens():
    shapes = [ShapeSpec(channels=4 + level, stride=8 << level) for level in range(3)]
    neck = Neck(input_shape=shapes, num_levels=4, embed_dim=16, norm_groups=4)
    maps = [torch.randn(2, c, h, w) for c, (h, w) in zip((4, 5, 6), LEVELS[:3], strict=True)]
    levels = neck(maps)
    assert [tuple(x.shape[-2:]) for x in levels] == LEVELS
    return flatten(levels, ImageList(torch.zeros(2, 3, 64, 96), SIZES))


def flatten(levels, images, strides=(8, 16, 32, 64)):
    level_embed = torch.zeros(len(levels), levels[0].shape[1])
    return flatten_levels(
        levels, level_embed, images, strides=strides, temperature=20.0, offset=0.0
    )


def test_levels_follow_each_other_from_fine_to_coarse(tokens):
    assert tokens.spatial_shapes == tuple(LEVELS)
    assert tokens.features.shape == (2, 8 * 12 + 4 * 6 + 2 * 3 + 1 * 2, 16)
    assert tokens.image_sizes == tuple(SIZES)


def test_a_token_is_padded_when_its_nearest_pixel_lies_outside_the_image(tokens):
    expected = []
    for height, width in LEVELS:
        for y in range(height):
            for x in range(width):
                outside = y * 64 // height >= 40 or x * 96 // width >= 64
                expected.append(outside)
    assert tokens.padding_mask[1].tolist() == expected
    assert not tokens.padding_mask[0].any()
    assert tokens.num_valid == (128, expected.count(False))


def test_centres_of_valid_tokens_span_the_image_and_reach_the_padded_map(tokens):
    # First level of the second image: 5 of 8 rows, 8 of 12 columns are inside.
    assert tokens.valid_ratios[1, 0].tolist() == pytest.approx([8 / 12, 5 / 8])
    assert tokens.centers[1, 0].tolist() == pytest.approx([0.5 / 8, 0.5 / 5])
    on_levels = tokens.scale_to_levels(tokens.centers)
    assert on_levels[1, 0, 0].tolist() == pytest.approx([0.5 / 12, 0.5 / 8])


def test_boxes_scale_with_the_valid_part_like_points(tokens):
    boxes = torch.rand(2, 7, 4)
    levels = tokens.scale_to_levels(boxes)
    for level in range(4):
        ratio = tokens.valid_ratios[:, level].repeat(1, 2)
        torch.testing.assert_close(levels[:, :, level], boxes * ratio[:, None])


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


@pytest.mark.parametrize(("temperature", "offset"), [(20.0, 0.0), (10000.0, -0.5)])
def test_the_sine_position_is_that_of_the_formula(temperature, offset):
    valid = torch.zeros(1, 3, 5, dtype=torch.bool)
    valid[0, :2, :4] = True
    embedding = sine_grid_embedding(valid, 8, temperature, offset)
    for y in range(2):
        for x in range(4):
            expected = []
            for position, size in ((y + 1, 2), (x + 1, 4)):
                angle = (position + offset) / (size + 1e-6) * 2 * math.pi
                for pair in range(2):
                    phase = angle / temperature ** (2 * pair / 4)
                    expected += [math.sin(phase), math.cos(phase)]
            assert embedding[0, y, x].tolist() == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(
    ("num_levels", "strides"), [(3, (8, 16, 32)), (4, (8, 16, 32, 64)), (5, (8, 16, 32, 64, 128))]
)
def test_each_level_beyond_the_maps_doubles_the_stride(num_levels, strides):
    shapes = [ShapeSpec(channels=4 + level, stride=8 << level) for level in range(3)]
    neck = Neck(input_shape=shapes, num_levels=num_levels, embed_dim=8, norm_groups=4)
    levels = neck([torch.zeros(1, c, 128 // s, 256 // s) for c, s in ((4, 8), (5, 16), (6, 32))])
    images = ImageList(torch.zeros(1, 3, 128, 256), [(128, 256)])
    tokens = flatten(levels, images, neck.strides)
    assert tokens.strides == strides
    assert tokens.spatial_shapes == tuple((128 // s, 256 // s) for s in strides)
