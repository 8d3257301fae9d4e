"""Sine embeddings against their formula."""

import math

import pytest
import torch

from lite_focus_detr.modeling.position_encoding import sine_box_embedding, sine_grid_embedding


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


def test_coordinates_are_embedded_one_after_the_other():
    embedding = sine_box_embedding(torch.tensor([[0.25, 0.5]], dtype=torch.float64), 4)
    expected = []
    for angle in (math.pi / 2, math.pi):
        for phase in (angle, angle / 100):  # The temperature is 10000.
            expected += [math.sin(phase), math.cos(phase)]
    assert embedding[0].tolist() == pytest.approx(expected, abs=1e-12)
