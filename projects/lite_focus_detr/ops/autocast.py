"""Automatic mixed precision for what PyTorch does not cast by itself."""

import torch
from torch import Tensor


def autocast_dtype(tensor: Tensor) -> torch.dtype:
    """The dtype in which autocast wants a floating-point tensor; its own one outside of it.

    As for PyTorch's matrix products, double precision stays.
    """
    device = tensor.device.type
    # PyTorch knows no autocast for tensors without data.
    if tensor.is_meta or tensor.dtype == torch.float64 or not torch.is_autocast_enabled(device):
        return tensor.dtype
    return torch.get_autocast_dtype(device)
