"""Comparison of what two functions compute."""

import math

import pytest
import torch
from torch import nn

from lite_focus_detr.integrations import probe

ONES = torch.ones(3)


@pytest.mark.parametrize(
    ("actual", "expected"),
    [
        ([ONES], 0.0),
        ([1.5 * ONES], 0.5),
        ([torch.tensor([1.0, 1.0, 3.0])], 2.0),
        ([torch.ones(2)], math.inf),
        ([ONES, ONES], math.inf),
    ],
)
def test_the_difference_is_relative_to_the_largest_value(actual, expected):
    assert probe.difference(actual, [ONES]) == expected


def test_the_largest_difference_counts_and_a_nan_hides_behind_no_other():
    assert probe.difference([2 * ONES, 5 * ONES], [ONES, ONES]) == 4.0
    assert math.isnan(probe.difference([ONES, math.nan * ONES, ONES], [ONES] * 3))


def test_gradients_are_those_of_arguments_and_weights():
    x, weight = torch.tensor([2.0, 3.0], requires_grad=True), torch.tensor(5.0, requires_grad=True)
    unused = torch.zeros(2, requires_grad=True)
    results, gradients = probe.evaluate(
        lambda x, unused, flag: (x * weight, x), {"x": x, "unused": unused, "flag": True}, [weight]
    )
    assert torch.equal(results[0], torch.tensor([10.0, 15.0]))
    # Of -10 + 15: the factors of the two elements are -1 and 1.
    assert [gradient.tolist() for gradient in gradients] == [[-5.0, 5.0], [0.0, 0.0], 1.0]


def test_results_other_than_tensors_are_refused():
    with pytest.raises(TypeError, match="it returns \\['dict'\\], not tensors"):
        probe.evaluate(lambda: {}, {})


def test_a_copy_has_other_weights_and_the_module_keeps_its_own():
    module = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)).half().requires_grad_(False)
    before = [tensor.clone() for tensor in module.state_dict().values()]
    copied = probe.Probe().copy_of(module)
    assert not copied.training
    assert all(weight.dtype == torch.float32 for weight in copied.parameters())
    assert all(weight.requires_grad and weight.std() > 0 for weight in copied.parameters())
    assert all(map(torch.equal, before, module.state_dict().values()))


def test_inputs_are_the_same_every_time_and_none_of_the_caller_s_random_numbers():
    torch.manual_seed(0)
    expected = torch.rand(2)
    torch.manual_seed(0)
    first, second = probe.Probe(), probe.Probe()
    assert torch.equal(first.normal(3), second.normal(3))
    assert torch.equal(first.uniform(3), second.uniform(3))
    assert torch.equal(first.mask(9), second.mask(9))
    assert torch.equal(torch.rand(2), expected)


def test_settings_of_the_caller_do_not_count():
    with torch.inference_mode(), torch.autocast("cpu"), torch.device("meta"):
        with probe.plain_settings():
            product = torch.ones(2, 2, requires_grad=True) @ torch.ones(2, 2)
        assert torch.ones(1).is_meta
    assert product.dtype == torch.float32
    assert product.requires_grad
    assert product.device.type == "cpu"


@pytest.mark.parametrize("levels", [1, 3, 5])
def test_names_of_shapes_stand_for_the_same_levels(levels):
    shapes = probe.shapes_of_levels(levels)
    given = probe.shape_arguments(shapes)
    assert given["spatial_shapes_list"] == shapes
    assert given["spatial_shapes"].tolist() == [list(shape) for shape in shapes]
    starts = [sum(height * width for height, width in shapes[:level]) for level in range(levels)]
    assert given["level_start_index"].tolist() == starts
    assert len(set(shapes)) == levels
