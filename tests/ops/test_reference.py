"""The PyTorch operators against published results, plain loops and the definition."""

import math

import pytest
import torch

from lite_focus_detr.ops import reference


def gradients(output, grad_output, *inputs):
    return torch.autograd.grad(output, inputs, grad_output)


def assert_close(actual, expected, tolerance=1e-12):
    torch.testing.assert_close(actual, expected, atol=tolerance, rtol=tolerance)


def leaf(tensor):
    return tensor.double().requires_grad_()


def test_multi_scale_attention_and_its_gradients_equal_the_published_implementation(golden):
    shapes = golden["spatial_shapes"].tolist()
    names = ("value", "sampling_locations", "attention_weights")
    inputs = [leaf(golden[name]) for name in names]
    output = reference.multi_scale_deformable_attention(inputs[0], shapes, *inputs[1:])
    assert_close(output, golden["msda_output"])
    actual = gradients(output, golden["grad_output"].double(), *inputs)
    for name, gradient in zip(names, actual, strict=True):
        assert_close(gradient, golden[f"msda_grad_{name}"])


@pytest.mark.parametrize("shared", [False, True])
def test_key_aware_attention_and_its_gradients_equal_the_published_implementation(golden, shared):
    shapes = golden["spatial_shapes"].tolist()
    query, key, value, locations = (
        leaf(golden[name]) for name in ("query", "key", "value", "sampling_locations")
    )
    prefix = "kda_shared" if shared else "kda"
    output = reference.key_aware_deformable_attention(
        query, None if shared else key, value, shapes, locations
    )
    assert_close(output, golden[f"{prefix}_output"])
    named = {"query": query, "value": value, "sampling_locations": locations}
    if not shared:
        named["key"] = key
    actual = gradients(output, golden["grad_output"].double(), *named.values())
    for name, gradient in zip(named, actual, strict=True):
        assert_close(gradient, golden[f"{prefix}_grad_{name}"])


def test_multi_scale_attention_equals_plain_loops(make_inputs, plain_loops):
    inputs = make_inputs()
    output = reference.multi_scale_deformable_attention(
        inputs.value, inputs.shapes, inputs.locations, inputs.weights
    )
    assert_close(output, plain_loops(inputs, inputs.locations, weights=inputs.weights))


@pytest.mark.parametrize("shared", [False, True])
def test_key_aware_attention_equals_plain_loops(make_inputs, plain_loops, shared):
    inputs = make_inputs()
    output = reference.key_aware_deformable_attention(
        inputs.query,
        None if shared else inputs.key,
        inputs.value,
        inputs.shapes,
        inputs.locations,
        scale=0.3,
    )
    key = inputs.value if shared else inputs.key
    assert_close(output, plain_loops(inputs, inputs.locations, key=key, scale=0.3))


@pytest.mark.parametrize("shared", [False, True])
def test_masked_attention_equals_plain_loops_over_the_points_inside(
    make_inputs, plain_loops, shared
):
    inputs = make_inputs()
    inputs.locations[0, 1, 2] += 3  # a query without any point inside
    key = inputs.value if shared else inputs.key
    arguments = (inputs.value, inputs.shapes, inputs.locations, 0.3)
    output = reference.key_aware_deformable_attention(
        inputs.query, None if shared else inputs.key, *arguments, mask_outside=True
    )
    masked = plain_loops(inputs, inputs.locations, key=key, scale=0.3, mask_outside=True)
    assert_close(output, masked)
    assert not output.view(2, 7, 3, 8)[0, 1, 2].any()
    published = plain_loops(inputs, inputs.locations, key=key, scale=0.3)
    assert (masked - published).abs().max() > 0.1


def test_points_touch_their_map_up_to_one_pixel_beyond_the_centres_at_its_border():
    inside = 2.0**-20
    pixels = {
        (-1.0, 1.0): True,
        (-1.0 + inside, 1.0): False,
        (8.0, 1.0): True,
        (8.0 - inside, 1.0): False,
        (3.0, -1.0): True,
        (3.0, -1.0 + inside): False,
        (3.0, 4.0): True,
        (3.0, 4.0 - inside): False,
        (math.nan, 1.0): True,
        (3.0, math.nan): True,
        (math.inf, 1.0): True,
        (3.0, -math.inf): True,
    }
    sizes = torch.tensor((8.0, 4.0), dtype=torch.float64)
    locations = (torch.tensor(list(pixels), dtype=torch.float64) + 0.5) / sizes
    outside = reference.points_outside([(4, 8)], locations.view(1, 1, 1, 1, -1, 2))
    assert outside.flatten().tolist() == list(pixels.values())


def test_offsets_from_points_are_in_pixels_of_their_level(make_inputs, plain_loops):
    inputs = make_inputs()
    output = reference.fused_deformable_attention(
        inputs.value, inputs.shapes, inputs.references, inputs.offsets, inputs.logits
    )
    sizes = torch.tensor([(width, height) for height, width in inputs.shapes])
    locations = inputs.references[:, :, None, :, None] + inputs.offsets / sizes[:, None]
    weights = inputs.logits.softmax(-1).view(inputs.weights.shape)
    assert_close(output, plain_loops(inputs, locations, weights=weights))


def test_offsets_from_boxes_are_fractions_of_half_the_box(make_inputs, plain_loops):
    inputs = make_inputs(points=3)
    output = reference.fused_key_aware_deformable_attention(
        inputs.query, None, inputs.value, inputs.shapes, inputs.boxes, inputs.offsets
    )
    boxes = inputs.boxes[:, :, None, :, None]
    locations = boxes[..., :2] + inputs.offsets / 3 * boxes[..., 2:] / 2
    assert_close(output, plain_loops(inputs, locations, key=inputs.value, scale=8**-0.5))
    masked = reference.fused_key_aware_deformable_attention(
        inputs.query,
        None,
        inputs.value,
        inputs.shapes,
        inputs.boxes,
        inputs.offsets,
        mask_outside=True,
    )
    options = {"key": inputs.value, "scale": 8**-0.5, "mask_outside": True}
    assert_close(masked, plain_loops(inputs, locations, **options))


def test_offsets_of_one_level_hold_for_all(make_inputs):
    inputs = make_inputs(same_offsets=True)
    repeated = inputs.offsets.expand(-1, -1, -1, 4, -1, -1)
    arguments = (inputs.value, inputs.shapes, inputs.references)
    assert_close(
        reference.fused_deformable_attention(*arguments, inputs.offsets, inputs.logits),
        reference.fused_deformable_attention(*arguments, repeated, inputs.logits),
    )


@pytest.mark.parametrize("distance", [-math.inf, math.inf, -1e30, 1e30])
def test_points_infinitely_far_away_contribute_nothing(make_inputs, distance):
    inputs = make_inputs()
    locations = torch.full_like(inputs.locations, distance)
    output = reference.multi_scale_deformable_attention(
        inputs.value, inputs.shapes, locations, inputs.weights
    )
    assert torch.equal(output, torch.zeros_like(output))


def test_a_location_that_is_not_a_number_shows_in_its_head_only(make_inputs):
    inputs = make_inputs()
    inputs.locations[1, 2, 0, 3, 1, 0] = math.nan
    output = reference.multi_scale_deformable_attention(
        inputs.value, inputs.shapes, inputs.locations, inputs.weights
    ).view(2, 7, 3, 8)
    assert output[1, 2, 0].isnan().all()
    assert output.isnan().sum() == 8


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_values_are_interpolated_in_float32(make_inputs, dtype):
    inputs = make_inputs()
    value = inputs.value.to(dtype)
    output = reference.multi_scale_deformable_attention(
        value, inputs.shapes, inputs.locations.float(), inputs.weights.float()
    )
    exact = reference.multi_scale_deformable_attention(
        value.double(), inputs.shapes, inputs.locations, inputs.weights
    )
    assert output.dtype == dtype
    assert (output - exact).abs().max() <= torch.finfo(dtype).eps / 2 * exact.abs().max() * 1.01
