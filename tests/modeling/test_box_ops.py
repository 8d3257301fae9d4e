"""Logits of boxes and probabilities."""

import math

import pytest
import torch

from lite_focus_detr.modeling.box_ops import inverse_sigmoid, shift_logits, to_float32

EPS = 1e-3


@pytest.mark.parametrize(
    ("probability", "ratio"),
    [
        (0.25, 1 / 3),
        # Numerator and denominator have the bound each by itself.
        (0.0, EPS / 1),
        (1.0, 1 / EPS),
        (EPS / 10, EPS / (1 - EPS / 10)),
        (1 - EPS / 10, (1 - EPS / 10) / EPS),
        (-0.5, EPS / 1),
        (1.5, 1 / EPS),
    ],
)
def test_the_inverse_sigmoid_is_bounded_by_eps(probability, ratio):
    logit = inverse_sigmoid(torch.tensor(probability, dtype=torch.float64), EPS)
    assert logit.item() == pytest.approx(math.log(ratio), abs=1e-12)


def test_only_half_precision_is_raised():
    for dtype in (torch.float16, torch.bfloat16, torch.float32):
        assert to_float32(torch.ones(2, dtype=dtype)).dtype == torch.float32
    assert to_float32(torch.ones(2, dtype=torch.float64)).dtype == torch.float64


def test_a_point_shifts_the_centre_only():
    shift = torch.tensor([1.0, 2.0, 3.0, 4.0])
    assert shift_logits(shift, torch.tensor([10.0, 20.0])).tolist() == [11, 22, 3, 4]
    assert shift_logits(shift, torch.tensor([10.0, 20.0, 30.0, 40.0])).tolist() == [11, 22, 33, 44]
