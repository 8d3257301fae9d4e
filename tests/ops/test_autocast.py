"""The dtype of automatic mixed precision."""

import pytest
import torch

from lite_focus_detr.ops.autocast import autocast_dtype

DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]


@pytest.mark.parametrize("dtype", DTYPES)
def test_without_autocast_a_tensor_has_its_own(dtype):
    assert autocast_dtype(torch.zeros(1, dtype=dtype)) == dtype


@pytest.mark.parametrize("dtype", DTYPES)
def test_autocast_gives_its_own_to_all_but_double_precision(dtype):
    with torch.autocast("cpu", torch.bfloat16):
        found = autocast_dtype(torch.zeros(1, dtype=dtype))
        product = torch.zeros(1, 1, dtype=dtype) @ torch.zeros(1, 1, dtype=dtype)
    assert found == product.dtype
    assert found == (torch.float64 if dtype == torch.float64 else torch.bfloat16)


def test_a_tensor_without_data_keeps_its_own():
    with torch.autocast("cpu", torch.bfloat16):
        assert autocast_dtype(torch.zeros(1, device="meta")) == torch.float32
