"""Attention modules computed with the fused operator."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from lite_focus_detr import ops
from lite_focus_detr.integrations.arguments import Parameters
from lite_focus_detr.integrations.fused_attention import FusedAttention, Roles

NAMES = ("query", "value", "reference_points", "spatial_shapes", "value_mask")
SHAPES = [(5, 4), (3, 3), (2, 1)]
TOKENS = 31
HEADS = 2


def attention(**settings):
    parameters = Parameters((*NAMES, "extra"), (None,) * 6)
    return FusedAttention(
        parameters=parameters, roles=Roles.of(parameters), heads=HEADS, levels=3, **settings
    )


@pytest.fixture
def call():
    """Layers for (2, 4, 1) points, and arguments with boxes."""
    torch.manual_seed(0)
    layers = SimpleNamespace(
        sampling_offsets=nn.Linear(8, HEADS * 7 * 2), attention_weights=nn.Linear(8, HEADS * 7)
    )
    given = {
        "query": torch.randn(2, 5, 8),
        "value": torch.randn(2, TOKENS, 8),
        "reference_points": 0.2 + 0.6 * torch.rand(2, 5, 1, 4),
        "spatial_shapes": SHAPES,
    }
    return layers, given


def test_unequal_points_are_those_of_each_level_alone(call):
    layers, given = call
    actual, weights = attention(
        num_points=(2, 4, 1), box_scale=0.3, weights_axes=4, coordinates=(4,)
    ).attend(layers, given)

    offsets = layers.sampling_offsets(given["query"]).view(2, 5, HEADS, 7, 2)
    expected_weights = layers.attention_weights(given["query"]).view(2, 5, HEADS, 7).softmax(-1)
    centre, size = given["reference_points"][:, :, :, None].split(2, -1)
    expected, start, point = 0, 0, 0
    for (height, width), points in zip(SHAPES, (2, 4, 1), strict=True):
        value = given["value"][:, start : start + height * width].view(2, -1, HEADS, 4)
        part = slice(point, point + points)
        locations = centre + offsets[..., part, :] / points * size * 0.3
        expected = expected + ops.reference.multi_scale_deformable_attention(
            value, [(height, width)], locations[:, :, :, None], expected_weights[..., None, part]
        )
        start, point = start + height * width, point + points
    torch.testing.assert_close(actual, expected, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(weights, expected_weights)


def test_what_has_no_output_layer_is_as_wide_as_its_references(call):
    layers, given = call
    given["value"] = given["value"].bfloat16()
    assert attention(num_points=(2, 4, 1)).attend(layers, given).dtype == torch.float32


@pytest.mark.parametrize(
    ("changes", "settings"),
    [
        ({"reference_points": torch.rand(2, 5, 4)}, {}),
        ({"reference_points": torch.rand(2, 5, 2, 4)}, {}),
        ({"reference_points": torch.rand(2, 5, 3, 2)}, {"coordinates": (4,)}),
        ({"spatial_shapes": SHAPES[:2]}, {}),
        ({"spatial_shapes": None}, {}),
        ({"value": None}, {}),
        ({"value_mask": torch.ones(2, TOKENS, dtype=torch.bool)}, {}),
        ({"value_mask": torch.ones(2, TOKENS)}, {"padding": True}),
        ({"extra": 1}, {}),
    ],
)
def test_calls_that_were_not_tried_are_not_served(call, changes, settings):
    _, given = call
    assert attention().serves(given)
    assert not attention(**settings).serves({**given, **changes})


def test_a_mask_is_served_where_its_meaning_is_known(call):
    _, given = call
    given["value_mask"] = torch.ones(2, TOKENS, dtype=torch.bool)
    assert attention(padding=False).serves(given)


def test_roles_are_found_by_the_usual_names_only():
    assert Roles.of(Parameters(("x", "value", "reference_points", "spatial_shapes"), ())) is None
    roles = Roles.of(Parameters(NAMES, ()))
    assert (roles.query, roles.mask, roles.position) == ("query", "value_mask", None)
