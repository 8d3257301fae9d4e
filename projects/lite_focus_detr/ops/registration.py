"""What PyTorch has to know of the native operators besides their kernels: shapes and gradients.

With it they work under ``torch.compile``, ``torch.export`` and autograd like built-in ones. The
schemas are in ``kernels/cpu/register.cpp``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NoReturn

import torch
from torch import Tensor

_NAMESPACE = "lite_focus_detr"
_OPERATORS = ("ms_deform_attn", "key_aware_deform_attn")


def register() -> None:
    """Register shape functions and gradients of the operators, whose library must be loaded."""
    for name, fake in (
        ("ms_deform_attn", _ms_deform_attn_fake),
        ("ms_deform_attn_backward", _ms_deform_attn_backward_fake),
        ("key_aware_deform_attn", _key_aware_deform_attn_fake),
        ("key_aware_deform_attn_backward", _key_aware_deform_attn_backward_fake),
    ):
        torch.library.register_fake(f"{_NAMESPACE}::{name}", fake)
    torch.library.register_autograd(
        f"{_NAMESPACE}::ms_deform_attn", _ms_deform_attn_grad, setup_context=_save_inputs
    )
    torch.library.register_autograd(
        f"{_NAMESPACE}::key_aware_deform_attn",
        _key_aware_deform_attn_grad,
        setup_context=_save_inputs,
    )
    for name in _OPERATORS:
        torch.library.register_autograd(f"{_NAMESPACE}::{name}_backward", _raise_double_backward)


def _output_like(value: Tensor, sampling_points: Tensor) -> Tensor:
    batch, _, heads, channels = value.shape
    return value.new_empty(batch, sampling_points.shape[1], heads * channels)


def _grad_reference_like(reference_points: Tensor | None, needed: bool, value: Tensor) -> Tensor:
    if reference_points is None or not needed:
        return value.new_empty(0, dtype=torch.promote_types(value.dtype, torch.float32))
    return torch.empty_like(reference_points, memory_format=torch.contiguous_format)


def _dense_like(tensor: Tensor) -> Tensor:
    return torch.empty_like(tensor, memory_format=torch.contiguous_format)


def _ms_deform_attn_fake(
    value: Tensor,
    spatial_shapes: Sequence[int],
    reference_points: Tensor | None,
    sampling_points: Tensor,
    weights: Tensor,
) -> Tensor:
    return _output_like(value, sampling_points)


def _ms_deform_attn_backward_fake(
    grad_output: Tensor,
    value: Tensor,
    spatial_shapes: Sequence[int],
    reference_points: Tensor | None,
    sampling_points: Tensor,
    weights: Tensor,
    needs_reference: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return (
        _dense_like(value),
        _grad_reference_like(reference_points, needs_reference, value),
        _dense_like(sampling_points),
        _dense_like(weights),
    )


def _key_aware_deform_attn_fake(
    query: Tensor,
    key: Tensor | None,
    value: Tensor,
    spatial_shapes: Sequence[int],
    reference_points: Tensor | None,
    sampling_points: Tensor,
    scale: float,
    mask_outside: bool,
) -> Tensor:
    return _output_like(value, sampling_points)


def _key_aware_deform_attn_backward_fake(
    grad_output: Tensor,
    query: Tensor,
    key: Tensor | None,
    value: Tensor,
    spatial_shapes: Sequence[int],
    reference_points: Tensor | None,
    sampling_points: Tensor,
    scale: float,
    mask_outside: bool,
    needs_reference: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    return (
        _dense_like(query),
        value.new_empty(0) if key is None else _dense_like(key),
        _dense_like(value),
        _grad_reference_like(reference_points, needs_reference, value),
        _dense_like(sampling_points),
    )


def _save_inputs(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    tensors = [item if isinstance(item, Tensor) else None for item in inputs]
    ctx.save_for_backward(*tensors)
    ctx.constants = [None if isinstance(item, Tensor) else item for item in inputs]


def _restore_inputs(ctx: Any) -> list[Any]:
    pairs = zip(ctx.saved_tensors, ctx.constants, strict=True)
    return [constant if tensor is None else tensor for tensor, constant in pairs]


def _forbid_nondeterminism(value: Tensor) -> None:
    """The CUDA kernels add the gradients of value with atomics, in no fixed order."""
    only_warns = torch.is_deterministic_algorithms_warn_only_enabled()
    if value.is_cuda and torch.are_deterministic_algorithms_enabled() and not only_warns:
        raise RuntimeError(
            "The gradient of deformable attention on CUDA has no deterministic kernel. Call "
            "torch.use_deterministic_algorithms(True, warn_only=True), or train on the CPU, whose "
            "kernel is deterministic"
        )


def _ms_deform_attn_grad(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
    value, spatial_shapes, reference_points, sampling_points, weights = _restore_inputs(ctx)
    _forbid_nondeterminism(value)
    needs_reference = ctx.needs_input_grad[2]
    grad_value, grad_reference, grad_sampling, grad_weights = (
        torch.ops.lite_focus_detr.ms_deform_attn_backward(
            grad_output,
            value,
            spatial_shapes,
            reference_points,
            sampling_points,
            weights,
            needs_reference,
        )
    )
    return (
        grad_value,
        None,
        grad_reference if needs_reference else None,
        grad_sampling,
        grad_weights,
    )


def _key_aware_deform_attn_grad(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
    query, key, value, *constants = _restore_inputs(ctx)
    _forbid_nondeterminism(value)
    needs_reference = ctx.needs_input_grad[4]
    grad_query, grad_key, grad_value, grad_reference, grad_sampling = (
        torch.ops.lite_focus_detr.key_aware_deform_attn_backward(
            grad_output, query, key, value, *constants, needs_reference
        )
    )
    return (
        grad_query,
        None if key is None else grad_key,
        grad_value,
        None,
        grad_reference if needs_reference else None,
        grad_sampling,
        None,
        None,
    )


def _raise_double_backward(ctx: Any, *grads: Tensor) -> NoReturn:
    raise RuntimeError(
        "Deformable attention has no second derivative; set LITE_FOCUS_DETR_OPS=reference in the "
        "environment to compute it with PyTorch operations"
    )
