"""Automatic mixed precision for what PyTorch does not cast by itself."""

from __future__ import annotations

import torch
from torch import Tensor


def autocast_dtype(tensor: Tensor) -> torch.dtype:
    """The dtype that autocast gives a floating-point tensor; outside of autocast its own.

    Double precision stays, as in PyTorch's matrix products.
    """
    device = tensor.device.type
    # PyTorch knows no autocast for tensors without data.
    if tensor.is_meta or tensor.dtype == torch.float64 or not torch.is_autocast_enabled(device):
        return tensor.dtype
    return torch.get_autocast_dtype(device)
