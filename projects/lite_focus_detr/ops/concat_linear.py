"""A linear layer for a sequence that comes in parts, without joining the parts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .autocast import autocast_dtype


class _ConcatLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weight: Tensor, bias: Tensor, *parts: Tensor) -> Tensor:
        ctx.save_for_backward(weight, *parts)
        ctx.lengths = [part.shape[1] for part in parts]
        batch = len(parts[0])
        projected = weight.new_empty(batch, sum(ctx.lengths), len(weight))
        matrices = weight.t().expand(batch, -1, -1)
        for part, target in zip(parts, torch.split(projected, ctx.lengths, 1), strict=True):
            target.baddbmm_(part, matrices, beta=0)
        return projected.add_(bias)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, ...]:
        weight, *parts = ctx.saved_tensors
        matrices = weight.expand(len(grad), -1, -1)
        grad_weight, grad_parts = torch.zeros_like(weight), []
        for part, grad_part in zip(parts, torch.split(grad, ctx.lengths, 1), strict=True):
            grad_weight += grad_part.transpose(1, 2).bmm(part).sum(0)
            grad_parts.append(grad_part.bmm(matrices))
        return (grad_weight, grad.sum((0, 1)), *grad_parts)


def concat_linear(linear: nn.Module, parts: Sequence[Tensor]) -> Tensor:
    """``linear(torch.cat(parts, 1))`` without the copies of the parts that ``cat`` makes.

    Every part is projected into its place in the result. Under autocast the dtype is that of
    PyTorch's linear layers.

    Args:
        linear: from C to D channels, with a bias; any module but a linear layer gets joined parts.
        parts: of the sequence, each (B, S_i, C).

    Returns:
        (B, S, D), S the sum of all S_i.
    """
    if torch.compiler.is_exporting() or not isinstance(linear, nn.Linear):
        # Writes into parts of a tensor become copies of all of it in an exported graph.
        joined: Tensor = linear(torch.cat(list(parts), 1))
        return joined
    arguments = [x.to(autocast_dtype(x)) for x in (linear.weight, linear.bias, *parts)]
    projected: Tensor = _ConcatLinear.apply(*arguments)  # type: ignore[no-untyped-call]
    return projected
