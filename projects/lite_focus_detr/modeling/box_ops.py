"""Arithmetic of boxes and of the probabilities that they are predicted as."""

import torch
from torch import Tensor, nn


def inverse_sigmoid(x: Tensor, eps: float) -> Tensor:
    """Logit of x of any shape, finite at 0 and 1. Unlike ``torch.logit`` it clamps numerator and
    denominator to ``eps`` apart, as all published DETRs do."""
    x = x.clamp(0, 1)
    return torch.log(x.clamp(min=eps) / (1 - x).clamp(min=eps))


def to_float32(x: Tensor) -> Tensor:
    """Half precision to float32; everything else as it is."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def shift_logits(shift: Tensor, anchor: Tensor) -> Tensor:
    """Move anchors, logits of points (..., 2) or boxes (..., 4), by a head's ``shift`` (..., 4)."""
    return shift + nn.functional.pad(anchor, (0, shift.shape[-1] - anchor.shape[-1]))
