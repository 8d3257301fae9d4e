import random

import numpy as np
import torch

from lite_focus_detr.data.seeding import seed_generators, seeded_generators


def draw():
    return random.random(), np.random.rand(), torch.rand(()).item()


def test_equal_keys_give_equal_numbers_of_all_generators_and_other_keys_others():
    drawn = []
    for key in ((3, 1), (3, 1), (3, 2), (1, 3)):
        seed_generators(*key)
        drawn.append(draw())
    assert drawn[0] == drawn[1]
    for numbers in zip(*drawn[1:], strict=True):
        assert len(set(numbers)) == 3


def test_seeded_generators_give_what_seeding_gives_and_leave_no_trace():
    seed_generators(7, 5)
    expected = draw()
    seed_generators(1)
    first = draw()
    with seeded_generators(7, 5):
        assert draw() == expected
    second = draw()
    seed_generators(1)
    assert (draw(), draw()) == (first, second)
