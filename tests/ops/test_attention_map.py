import math

import torch

from lite_focus_detr import ops

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
    locations = torch.rand(2, 10, 3, 2, 2, 2, dtype=torch.float64) * 1.6 - 0.3
    weights = torch.rand(2, 10, 3, 2, 2, dtype=torch.float64)
    with torch.no_grad():
        found = ops.attention_map(locations, weights, LEVELS)
    torch.testing.assert_close(found, brute_force(locations, weights))


def test_samples_inside_share_out_all_of_their_weight():
    locations = torch.full((1, 7, 2, 2, 4, 2), 0.3)
    weights = torch.full((1, 7, 2, 2, 4), 1 / 8)
    total = ops.attention_map(locations, weights, LEVELS).sum(1)
    torch.testing.assert_close(total, torch.full((1, 2), 7.0))
