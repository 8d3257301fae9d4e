import math

import torch

from lite_focus_detr.modeling.encoder.decoder_attention_map import decoder_attention_map
from lite_focus_detr.modeling.structures import SamplingPoints

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
        SamplingPoints(
            torch.rand(2, 5, 3, 2, 2, 2, dtype=torch.float64) * 1.6 - 0.3,
            torch.rand(2, 5, 3, 2, 2, dtype=torch.float64),
        )
        for _ in range(2)
    ]
    expected = sum(brute_force(*layer) for layer in sampling)
    with torch.no_grad():
        torch.testing.assert_close(decoder_attention_map(sampling, LEVELS), expected)


def test_samples_inside_share_out_all_of_their_weight():
    locations = torch.full((1, 7, 2, 2, 4, 2), 0.3)
    weights = torch.full((1, 7, 2, 2, 4), 1 / 8)
    assert torch.allclose(
        decoder_attention_map([SamplingPoints(locations, weights)], LEVELS).sum(1),
        torch.tensor(7.0),
    )
