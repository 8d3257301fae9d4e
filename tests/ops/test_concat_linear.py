"""The projection of a sequence in parts against a linear layer on the joined sequence."""

import pytest
import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile

from lite_focus_detr.ops.concat_linear import concat_linear


@pytest.fixture
def parts():
    generator = torch.Generator().manual_seed(0)
    return [
        torch.randn(2, count, 6, dtype=torch.float64, generator=generator).requires_grad_()
        for count in (5, 0, 3)
    ]


@pytest.fixture
def projection():
    return nn.Linear(6, 4, dtype=torch.float64)


def test_it_equals_the_projection_of_the_joined_parts_with_all_gradients(projection, parts):
    leaves = [*projection.parameters(), *parts]
    expected = projection(torch.cat(parts, 1))
    grad = torch.linspace(-1, 1, expected.numel(), dtype=torch.float64).view_as(expected)
    expected_grads = torch.autograd.grad(expected, leaves, grad)
    projected = concat_linear(projection, parts)
    torch.testing.assert_close(projected, expected)
    torch.testing.assert_close(torch.autograd.grad(projected, leaves, grad), expected_grads)


def test_no_memory_is_taken_but_that_of_the_result(projection, parts):
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as trace:
        projected = concat_linear(projection, [part.detach() for part in parts])
    taken = [x.self_cpu_memory_usage for x in trace.key_averages()]
    assert sum(size for size in taken if size > 0) == projected.nbytes


def test_autocast_chooses_the_dtype_and_gradients_keep_theirs(projection, parts):
    projection = projection.float()
    parts = [part.detach().float().requires_grad_() for part in parts]
    with torch.autocast("cpu", torch.bfloat16):
        projected = concat_linear(projection, parts)
        expected = projection(torch.cat(parts, 1))
    assert projected.dtype == expected.dtype == torch.bfloat16
    torch.testing.assert_close(projected, expected, rtol=2**-7, atol=2**-7)
    projected.sum().backward()
    assert all(part.grad.dtype == torch.float32 for part in parts)
    assert projection.weight.grad.dtype == torch.float32


def test_it_compiles_without_a_graph_break(projection, parts):
    compiled = torch.compile(concat_linear, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(projection, parts), concat_linear(projection, parts))
