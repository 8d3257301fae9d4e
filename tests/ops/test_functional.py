"""The public operators: what they pass to the native kernels or to the reference."""

import math

import pytest
import torch

from lite_focus_detr import ops

WIDTH = 256


@pytest.fixture(params=["native", "reference"])
def path(request, monkeypatch):
    if request.param == "reference":
        monkeypatch.setenv("LITE_FOCUS_DETR_OPS", "reference")


def ramp(dtype):
    """A map of one row whose value is the distance from its middle in pixels."""
    columns = torch.arange(WIDTH, dtype=torch.float32) - (WIDTH - 1) / 2
    return columns.view(1, WIDTH, 1, 1).expand(-1, -1, -1, 8).to(dtype)


def sample(kind, value, *points):
    """The only sample of one query with an operator of a kind."""
    arguments = (value, [(1, WIDTH)])
    if kind == "plain":
        weight = torch.ones(1, 1, 1, 1, 1, dtype=value.dtype)
        if len(points) == 1:
            return ops.multi_scale_deformable_attention(*arguments, *points, weight)
        return ops.fused_deformable_attention(*arguments, *points, weight.view(1, 1, 1, 1))
    query = torch.zeros(1, 1, 1, 8, dtype=value.dtype)
    if len(points) == 1:
        return ops.key_aware_deformable_attention(query, None, *arguments, *points)
    return ops.fused_key_aware_deformable_attention(query, None, *arguments, *points)


@pytest.mark.usefixtures("path")
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("kind", ["plain", "key-aware"])
@pytest.mark.parametrize("place", ["locations", "points", "centres", "sizes"])
def test_references_and_locations_are_never_rounded_to_half(dtype, kind, place):
    # A twentieth of a pixel from the middle, which is less than half precision can say.
    pixels = 0.05
    x = 0.5 + pixels / WIDTH
    assert torch.tensor(x, dtype=dtype) == 0.5
    offset = torch.zeros(1, 1, 1, 1, 1, 2, dtype=dtype)
    if place == "locations":
        points = (torch.tensor([x, 0.5]).view(1, 1, 1, 1, 1, 2),)
    elif place == "points":
        points = (torch.tensor([x, 0.5]).view(1, 1, 1, 2), offset)
    elif place == "centres":
        points = (torch.tensor([x, 0.5, 0.2, 0.2]).view(1, 1, 1, 4), offset)
    else:  # The offset leads to the right end of a box from 0 to x.
        offset[..., 0] = 1.0
        points = (torch.tensor([0.25, 0.5, 2 * (x - 0.25), 0.2]).view(1, 1, 1, 4), offset)
    sampled = sample(kind, ramp(dtype), *points)
    assert sampled.dtype == dtype
    # The result is rounded, relative to its own small size.
    torch.testing.assert_close(sampled.float(), torch.full((1, 1, 8), pixels), rtol=0.02, atol=0)


@pytest.mark.usefixtures("path")
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("kind", ["plain", "key-aware"])
def test_offsets_in_single_precision_are_not_rounded_to_half(dtype, kind):
    # Half precision has steps of a sixteenth of a pixel and more at so large an offset.
    offset = torch.tensor([100.05, 0.0]).view(1, 1, 1, 1, 1, 2)
    reference = torch.tensor([0.5 - 100 / WIDTH, 0.5]).view(1, 1, 1, 2)
    sampled = sample(kind, ramp(dtype), reference, offset)
    torch.testing.assert_close(sampled.float(), torch.full((1, 1, 8), 0.05), rtol=0.02, atol=0)


@pytest.mark.usefixtures("path")
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_weights_in_single_precision_are_not_rounded_to_half(dtype):
    # Two samples half a pixel to the left and to the right of the middle.
    offsets = torch.tensor([[-0.5, 0.0], [0.5, 0.0]]).view(1, 1, 1, 1, 2, 2)
    logits = torch.tensor([2000.0, 2000.3]).view(1, 1, 1, 2)
    reference = torch.full((1, 1, 1, 2), 0.5)
    value, shapes = ramp(dtype), [(1, WIDTH)]
    sampled = ops.fused_deformable_attention(value, shapes, reference, offsets, logits)
    # The difference of the weights is tanh of half the difference of the logits.
    expected = torch.full((1, 1, 8), 0.5 * math.tanh(0.15))
    torch.testing.assert_close(sampled.float(), expected, rtol=0.02, atol=0)
    locations = reference[:, :, None, :, None] + offsets / WIDTH
    weights = logits.view(1, 1, 1, 1, 2)
    sampled = ops.multi_scale_deformable_attention(value, shapes, locations, weights)
    expected = torch.full((1, 1, 8), 0.5 * 0.3)
    torch.testing.assert_close(sampled.float(), expected, rtol=0.02, atol=0)


@pytest.mark.usefixtures("path")
@pytest.mark.parametrize("kind", ["plain", "key-aware"])
def test_autocast_rounds_no_references(kind):
    reference = torch.tensor([0.5 + 0.05 / WIDTH, 0.5]).view(1, 1, 1, 2)
    with torch.autocast("cpu", torch.bfloat16):
        sampled = sample(kind, ramp(torch.float32), reference, torch.zeros(1, 1, 1, 1, 1, 2))
    assert sampled.dtype == torch.bfloat16
    torch.testing.assert_close(sampled.float(), torch.full((1, 1, 8), 0.05), rtol=0.02, atol=0)


@pytest.mark.usefixtures("path")
@pytest.mark.parametrize("fused", [False, True])
def test_the_scale_zero_weighs_all_samples_alike(fused):
    # A pixel and three pixels to the right of the middle; the query prefers the second.
    offsets = torch.tensor([[1.0, 0.0], [3.0, 0.0]]).view(1, 1, 1, 1, 2, 2)
    reference = torch.full((1, 1, 1, 2), 0.5)
    query, value = torch.ones(1, 1, 1, 8), ramp(torch.float32)
    for scale, expected in ((0.0, 2.0), (10.0, 3.0)):
        if fused:
            arguments = (query, None, value, [(1, WIDTH)], reference, offsets, scale)
            sampled = ops.fused_key_aware_deformable_attention(*arguments)
        else:
            locations = reference[:, :, None, :, None] + offsets / WIDTH
            arguments = (query, None, value, [(1, WIDTH)], locations, scale)
            sampled = ops.key_aware_deformable_attention(*arguments)
        torch.testing.assert_close(sampled, torch.full((1, 1, 8), expected))
