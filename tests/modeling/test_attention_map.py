import contextlib
import math

import pytest
import torch
from detectron2.structures import ImageList

from lite_focus_detr.modeling.attention import DeformableAttention
from lite_focus_detr.modeling.attention_map import Sampling, attention_map, record_sampling
from lite_focus_detr.modeling.tokens import TokenBuilder

LEVELS = ((3, 4), (2, 2))


def brute_force(locations, weights):
    """Bilinear parts of every sample, counted one by one."""
    batch, queries, heads, levels, points, _ = locations.shape
    result = torch.zeros(batch, 16, heads, dtype=torch.float64)
    for image in range(batch):
        for query in range(queries):
            for head in range(heads):
                for level in range(levels):
                    height, width = LEVELS[level]
                    for point in range(points):
                        place = (image, query, head, level, point)
                        x = locations[place][0].item() * width
                        y = locations[place][1].item() * height
                        left, top = math.floor(x), math.floor(y)
                        for column in (left, left + 1):
                            for row in (top, top + 1):
                                if not (0 <= column < width and 0 <= row < height):
                                    continue
                                part = (1 - abs(x - column)) * (1 - abs(y - row))
                                token = 12 * level + row * width + column
                                result[image, token, head] += part * weights[place].item()
    return result


def test_the_map_is_the_sum_of_the_bilinear_parts_of_all_samples():
    torch.manual_seed(0)
    sampling = [
        Sampling(
            torch.rand(2, 5, 3, 2, 2, 2, dtype=torch.float64) * 1.6 - 0.3,
            torch.rand(2, 5, 3, 2, 2, dtype=torch.float64),
        )
        for _ in range(2)
    ]
    expected = sum(brute_force(*layer) for layer in sampling)
    with torch.no_grad():
        torch.testing.assert_close(attention_map(sampling, LEVELS), expected)


def test_samples_inside_share_out_all_of_their_weight():
    locations = torch.full((1, 7, 2, 2, 4, 2), 0.3)
    weights = torch.full((1, 7, 2, 2, 4), 1 / 8)
    assert torch.allclose(
        attention_map([Sampling(locations, weights)], LEVELS).sum(1), torch.tensor(7.0)
    )


@pytest.mark.parametrize("error", [None, RuntimeError("out of memory")])
def test_nothing_is_recorded_after_the_block(error):
    attention = DeformableAttention(embed_dim=8, num_heads=2, num_levels=2, num_points=2)
    builder = TokenBuilder(
        in_channels=[1, 1], num_levels=2, embed_dim=8, norm_groups=4, temperature=20.0, offset=0.0
    )
    images = ImageList(torch.empty(1, 3, 24, 32), [(24, 32)])
    tokens = builder([torch.randn(1, 8, *shape) for shape in LEVELS], images)
    arguments = (torch.randn(1, 5, 8), torch.rand(1, 5, 2, 2), tokens.features, tokens)
    with contextlib.suppress(RuntimeError), record_sampling([attention]) as recorded:
        attention(*arguments)
        if error is not None:
            raise error
    attention(*arguments)
    assert [x.weights.shape for x in recorded] == [(1, 5, 2, 2, 2)]
