"""Recognition of attention modules."""

import pytest
import torch
from torch import nn

from lite_focus_detr.integrations.fused_attention import FusedAttention
from lite_focus_detr.integrations.recognition import looks_like_attention, recognise_attention
from lite_focus_detr.integrations.sampling_core import CoreFunction


@pytest.mark.parametrize(("name", "batch_first"), [("mmcv", False), ("original", True)])
def test_a_published_module_is_known_with_all_that_it_takes(styles, name, batch_first):
    found = recognise_attention(styles[name]())
    assert found.coordinates == (2, 4)
    assert found.padding is True
    assert found.batch_first is batch_first
    assert (found.heads, found.levels, found.weights_axes) == (4, 3, 0)


def test_a_mask_of_what_is_valid_is_told_from_one_of_padding(styles):
    class Valid(styles["original"]):
        def sample(self, query, value, padding, *others):
            valid = padding
            return super().sample(query, value, None if valid is None else ~valid, *others)

    assert recognise_attention(Valid()).padding is False


def test_masks_of_another_meaning_are_left_to_the_module(styles):
    class Softly(styles["original"]):
        def sample(self, query, value, padding, *others):
            value = value if padding is None else value * (1 - 0.5 * padding[..., None].float())
            return super().sample(query, value, None, *others)

    found = recognise_attention(Softly())
    assert isinstance(found, FusedAttention)
    assert found.padding is None


def test_references_of_a_kind_that_the_module_does_not_take_are_not_served(styles):
    class BoxesOnly(styles["original"]):
        def locate(self, query, reference_points, spatial_shapes):
            if reference_points.shape[-1] != 4:
                raise ValueError("boxes please")
            return super().locate(query, reference_points, spatial_shapes)

    assert recognise_attention(BoxesOnly()).coordinates == (4,)


def other_offsets(module, query, reference_points, spatial_shapes, original):
    locations, weights = original(query, reference_points, spatial_shapes)
    return locations + 0.01, weights


def other_weights(module, query, reference_points, spatial_shapes, original):
    locations, weights = original(query, reference_points, spatial_shapes)
    return locations, weights.sigmoid()


def detached(module, query, reference_points, spatial_shapes, original):
    locations, weights = original(query, reference_points, spatial_shapes)
    return locations.detach(), weights


@pytest.mark.parametrize("change", [other_offsets, other_weights, detached])
def test_a_module_that_computes_something_else_is_refused(styles, change):
    class Other(styles["original"]):
        def locate(self, *args):
            return change(self, *args, original=super().locate)

    reason = recognise_attention(Other())
    assert "computes something else than deformable attention" in reason


def test_a_module_that_does_not_run_is_refused_with_its_error(styles):
    class Broken(styles["original"]):
        def sample(self, *_):
            raise RuntimeError("Not implemented on the CPU")

    assert recognise_attention(Broken()) == (
        "it does not run on the CPU: RuntimeError: Not implemented on the CPU"
    )


def test_other_names_leave_the_sampling(styles):
    found = recognise_attention(styles["other"]())
    assert isinstance(found, CoreFunction)
    assert found.name == "sample_with_grid_sample"


def test_without_names_and_sampling_there_is_a_reason():
    class Nameless(nn.Module):
        def __init__(self):
            super().__init__()
            self.sampling_offsets = self.attention_weights = nn.Linear(2, 2)

        def forward(self, x):
            return x

    module = Nameless()
    assert looks_like_attention(module)
    assert recognise_attention(module) == (
        "the arguments of its forward have none of the usual names"
    )


def test_a_module_without_the_number_of_heads_is_refused(styles):
    module = styles["original"]()
    del module.num_heads
    assert "numbers of heads and levels" in recognise_attention(module)


def test_other_modules_do_not_look_like_attention():
    assert not looks_like_attention(nn.MultiheadAttention(4, 2))
    assert not looks_like_attention(nn.Linear(2, 2))


def test_frozen_half_precision_weights_are_recognised(styles):
    module = styles["original"]().to(torch.bfloat16).requires_grad_(False)
    assert isinstance(recognise_attention(module), FusedAttention)
    assert all(weight.dtype == torch.bfloat16 for weight in module.parameters())
