import pytest
import torch
from detectron2.structures import ImageList

from lite_focus_detr.modeling.tokens import flatten_levels

SIZES = [(64, 96), (40, 64)]
LEVELS = [(8, 12), (4, 6), (2, 3), (1, 2)]


@pytest.fixture
def tokens():
    levels = [torch.randn(2, 16, *shape) for shape in LEVELS]
    images = ImageList(torch.zeros(2, 3, 64, 96), SIZES)
    return flatten_levels(
        levels,
        torch.zeros(4, 16),
        images,
        strides=(8, 16, 32, 64),
        position=(20.0, 0.0),
    )


def test_levels_follow_each_other_from_fine_to_coarse(tokens):
    assert tokens.spatial_shapes == tuple(LEVELS)
    assert tokens.features.shape == (2, 8 * 12 + 4 * 6 + 2 * 3 + 1 * 2, 16)
    assert tokens.image_sizes == tuple(SIZES)
    assert tokens.strides == (8, 16, 32, 64)


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
