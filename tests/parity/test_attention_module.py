"""The attention modules equal those of DINO and of Lite DETR, in double precision."""

import numpy as np
import pytest
import torch
from tests.parity.conftest import golden_files

from lite_focus_detr.modeling.attention import (
    AttentionConfig,
    DeformableAttention,
    KeyAwareAttention,
)

FILES = golden_files("kda_attn_*", "msda_*")


def build(name):
    size = {"embed_dim": 32, "num_heads": 4, "num_levels": 4, "num_points": 4}
    size["shared_offsets"] = "sameloc1" in name
    if name.startswith("kda"):
        return KeyAwareAttention(AttentionConfig(projected_key="projkey1" in name, **size))
    return DeformableAttention(AttentionConfig(**size))


@pytest.mark.parametrize("name", FILES)
def test_output_and_all_gradients_equal_upstream(golden, name):
    data = {key: torch.from_numpy(value) for key, value in golden(name).items()}
    module = build(name).double()
    weights = {k[2:]: v for k, v in data.items() if k.startswith("w.")}
    if not name.startswith("kda"):  # The published plain mode has an unused projection.
        weights = {k: v for k, v in weights.items() if "query_proj" not in k}
    module.load_state_dict(weights)
    query, value, references = (
        data[key].double().requires_grad_()
        for key in ("query", "input_flatten", "reference_points")
    )
    shapes = tuple(map(tuple, data["spatial_shapes"].tolist()))
    output = module(query, references, value, shapes, data.get("padding_mask"))
    output.backward(data["grad_output"].double())
    expected = {
        "output": output.detach(),
        "grad_query": query.grad,
        "grad_input_flatten": value.grad,
        "grad_reference_points": references.grad,
        **{f"g.{key}": parameter.grad for key, parameter in module.named_parameters()},
    }
    for key, ours in expected.items():
        np.testing.assert_allclose(ours, data[key], rtol=0, atol=1e-10, err_msg=key)
