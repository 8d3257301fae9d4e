"""The attention module of mmcv itself."""

import pytest
import torch

from lite_focus_detr.integrations import accelerate


@pytest.mark.usefixtures("mmcv_extension")
@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("coordinates", [2, 4])
def test_it_computes_the_same(batch_first, coordinates, forbid_grid_sample):
    from mmcv.ops import MultiScaleDeformableAttention

    torch.manual_seed(0)
    module = MultiScaleDeformableAttention(
        embed_dims=32, num_heads=4, num_levels=3, batch_first=batch_first, dropout=0.0
    )
    for weight in module.parameters():
        torch.nn.init.normal_(weight, std=0.2)
    shapes = torch.tensor([[6, 5], [3, 4], [2, 1]])
    query, position, value = torch.randn(2, 7, 32), torch.randn(2, 7, 32), torch.randn(2, 44, 32)
    if not batch_first:
        query, position, value = (x.transpose(0, 1) for x in (query, position, value))
    given = {
        "value": value,
        "query_pos": position,
        "key_padding_mask": torch.rand(2, 44) < 0.3,
        "reference_points": torch.rand(2, 7, 3, coordinates),
        "spatial_shapes": shapes,
        "level_start_index": torch.tensor([0, 30, 42]),
    }
    weights = list(module.parameters())
    expected = module(query, **given)
    expected_gradients = torch.autograd.grad(expected.square().sum(), weights)
    assert accelerate(module).skipped == {}
    forbid_grid_sample()
    actual = module(query, **given)
    torch.testing.assert_close(actual, expected, atol=1e-5, rtol=1e-5)
    gradients = torch.autograd.grad(actual.square().sum(), weights)
    torch.testing.assert_close(gradients, expected_gradients, atol=1e-3, rtol=1e-5)
