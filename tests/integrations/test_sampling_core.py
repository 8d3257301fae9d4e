"""Sampling functions and modules of others."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lite_focus_detr.integrations import accelerate
from lite_focus_detr.integrations.sampling_core import recognise_core_module

SHAPES = [(4, 3), (2, 2), (1, 3)]


def inputs(points):
    """Value, locations and weights with all points on one axis."""
    random = torch.Generator().manual_seed(0)
    value = torch.randn(2, 19, 3, 4, generator=random)
    locations = torch.rand(2, 5, 3, points, 2, generator=random)
    weights = torch.randn(2, 5, 3, points, generator=random)
    return [x.requires_grad_() for x in (value, locations, weights)]


class Core(nn.Module):
    """The sampling module of transformers."""

    def forward(
        self,
        value,
        value_spatial_shapes,
        value_spatial_shapes_list,
        level_start_index,
        sampling_locations,
        attention_weights,
        im2col_step,
    ):
        sampled = []
        sizes = [height * width for height, width in value_spatial_shapes_list]
        for level, tokens in enumerate(value.split(sizes, 1)):
            height, width = value_spatial_shapes_list[level]
            maps = tokens.flatten(2).transpose(1, 2).reshape(-1, value.shape[3], height, width)
            grid = 2 * sampling_locations[:, :, :, level].transpose(1, 2).flatten(0, 1) - 1
            sampled.append(F.grid_sample(maps, grid, align_corners=self.align_corners))
        weights = attention_weights.transpose(1, 2).flatten(0, 1).flatten(2)[:, None]
        output = (torch.cat(sampled, -1) * weights).sum(-1)
        return output.view(len(value), -1, output.shape[-1]).transpose(1, 2)

    align_corners = False


def unequal(value, spatial_shapes, sampling_locations, attention_weights, num_points_list, way=0):
    """The sampling function of RT-DETRv2: the points of all levels on one axis."""
    output = 0
    locations = sampling_locations.split(num_points_list, 3)
    weights = attention_weights.split(num_points_list, 3)
    tokens = value.split([height * width for height, width in spatial_shapes], 1)
    for level, (height, width) in enumerate(spatial_shapes):
        maps = tokens[level].permute(0, 2, 3, 1).reshape(-1, value.shape[3], height, width)
        grid = 2 * locations[level].transpose(1, 2).flatten(0, 1) - 1
        samples = F.grid_sample(
            maps, grid, align_corners=False, mode="nearest" if way else "bilinear"
        )
        output = output + (samples * weights[level].transpose(1, 2).flatten(0, 1)[:, None]).sum(-1)
    return output.view(len(value), -1, output.shape[-1]).transpose(1, 2)


class Unequal(nn.Module):
    """A module around it, with layers that nobody knows."""

    def __init__(self, way=0):
        super().__init__()
        self.sampling_offsets = self.attention_weights = nn.Linear(1, 1)
        self.way = way

    def forward(self, value, where, shares, points):
        return unequal(value, SHAPES, where, shares, points, way=self.way)


@pytest.mark.parametrize("points", [(2, 3, 1), (2, 2, 2)])
def test_unequal_points_are_sampled_as_the_function_does(points, forbid_grid_sample):
    module, tensors = Unequal(), inputs(sum(points))
    expected = module(*tensors, list(points))
    expected_gradients = torch.autograd.grad(expected.square().sum(), tensors)
    assert accelerate(module).replaced == [""]
    forbid_grid_sample()
    actual = module(*tensors, list(points))
    torch.testing.assert_close(actual, expected, atol=1e-5, rtol=1e-5)
    gradients = torch.autograd.grad(actual.square().sum(), tensors)
    torch.testing.assert_close(gradients, expected_gradients, atol=1e-4, rtol=1e-5)


def test_a_way_of_sampling_that_was_not_tried_stays(monkeypatch):
    module, tensors = Unequal(way=1), inputs(6)
    expected = module(*tensors, [2, 2, 2])
    accelerate(module)
    assert torch.equal(module(*tensors, [2, 2, 2]), expected)


def test_a_forward_with_an_exchanged_function_compiles(forbid_grid_sample):
    module, tensors = Unequal(), inputs(6)
    expected = module(*tensors, [1, 2, 3])
    accelerate(module)
    forbid_grid_sample()
    compiled = torch.compile(module, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(*tensors, [1, 2, 3]), expected, atol=1e-5, rtol=1e-5)


def core_call(module):
    value, locations, weights = inputs(6)
    locations, weights = locations.view(2, 5, 3, 3, 2, 2), weights.view(2, 5, 3, 3, 2)
    shapes = torch.tensor(SHAPES)
    return module(value, shapes, SHAPES, torch.tensor([0, 12, 16]), locations, weights, 64)


def test_a_module_that_only_samples_is_replaced_in_any_other(forbid_grid_sample):
    model = nn.ModuleDict({"wrapped": nn.Sequential(Core())})
    expected = core_call(model["wrapped"][0])
    handle = accelerate(model)
    assert handle.replaced == ["wrapped.0"]
    forbid_grid_sample()
    torch.testing.assert_close(core_call(model["wrapped"][0]), expected, atol=1e-5, rtol=1e-5)
    assert core_call(model["wrapped"][0]).dtype == torch.float32


def test_a_module_that_samples_in_another_way_is_none():
    module = Core()
    module.align_corners = True
    assert recognise_core_module(module) is None
    with pytest.raises(ValueError, match="no multi-scale deformable attention"):
        accelerate(module)


def test_a_module_with_weights_or_other_arguments_is_none():
    class Weighted(Core):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.ones(()))

    assert recognise_core_module(Weighted()) is None
    assert recognise_core_module(nn.ReLU()) is None
