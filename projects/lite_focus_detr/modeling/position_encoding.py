"""Sine embeddings of token positions, boxes and proposals."""

import math

import torch
from torch import Tensor


def sine_embedding(coordinate: Tensor, dim: int, temperature: float) -> Tensor:
    """Sine on even, cosine on odd channels ("Attention is all you need", 3.5), (..., dim), of an
    angle (...), 2 pi for the whole image; ``temperature`` is the ratio of the frequencies."""
    exponent = torch.arange(dim, dtype=coordinate.dtype, device=coordinate.device)
    frequency = temperature ** (2 * (exponent // 2) / dim)
    phase = coordinate[..., None] / frequency
    return torch.stack((phase[..., 0::2].sin(), phase[..., 1::2].cos()), dim=-1).flatten(-2)


def sine_box_embedding(boxes: Tensor, dim: int) -> Tensor:
    """Embed N coordinates (..., N) in [0, 1] one after the other: (..., N * dim), ``dim`` even."""
    return sine_embedding(boxes * (2 * math.pi), dim, 10000.0).flatten(-2)


def sine_grid_embedding(valid: Tensor, dim: int, temperature: float, offset: float) -> Tensor:
    """Embed each pixel relative to its image: (B, H, W, dim), the first half of the channels y.

    Args:
        valid: (B, H, W) bool, True inside the image.
        dim: channels, divisible by 4.
        temperature: see :func:`sine_embedding`.
        offset: shift in pixels; -0.5 takes pixel centres (Deformable DETR), 0 is DINO's choice.
    """
    axes = []
    for axis in (1, 2):
        count = valid.cumsum(axis, dtype=torch.float32)
        total = count.narrow(axis, count.shape[axis] - 1, 1)
        angle = (count + offset) / (total + 1e-6) * (2 * math.pi)
        axes.append(sine_embedding(angle, dim // 2, temperature))
    return torch.cat(axes, dim=-1)
