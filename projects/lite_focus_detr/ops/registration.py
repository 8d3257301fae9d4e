"""What PyTorch has to know of the native operators besides their kernels: shapes and gradients.

With it they work under ``torch.compile``, ``torch.export`` and autograd like built-in ones. The
schemas are in ``kernels/cpu/register.cpp``. :func:`call` takes a shorter way to the kernels where
nothing records the operator as a whole: a call of a decoder lasts no longer than PyTorch's own
preparation of an operator whose gradient is written in Python.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, NoReturn

import torch
from torch import Tensor
from torch.autograd import forward_ad

_NAMESPACE = "lite_focus_detr"
_OPERATORS = ("ms_deform_attn", "key_aware_deform_attn")


def missing_operators(device: str) -> list[str]:
    """Operators, or their gradients, for which no loaded library has a kernel.

    Args:
        device: ``CPU`` or ``CUDA``.
    """
    names = [f"{name}{suffix}" for name in _OPERATORS for suffix in ("", "_backward")]
    return [
        name
        for name in names
        if not hasattr(getattr(torch.ops, _NAMESPACE), name)
        or not torch._C._dispatch_has_kernel_for_dispatch_key(f"{_NAMESPACE}::{name}", device)
    ]


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


def call(name: str, *inputs: Any) -> Tensor:
    """The output of the native operator ``name``, whose library must be loaded.

    Args:
        name: ``ms_deform_attn`` or ``key_aware_deform_attn``.
        *inputs: as in its schema.

    Raises:
        RuntimeError: an input carries a tangent of forward-mode differentiation.
    """
    _forbid_tangents(inputs)
    operator = getattr(torch.ops.lite_focus_detr, name).default
    if (
        torch.compiler.is_compiling()
        or torch._C._get_tracing_state() is not None
        or torch._C._are_functorch_transforms_active()
    ):
        output: Tensor = operator(*inputs)
        return output
    if torch.is_grad_enabled() and any(
        isinstance(item, Tensor) and item.requires_grad for item in inputs
    ):
        recorded: Tensor = _FUNCTIONS[name].apply(*inputs)  # type: ignore[no-untyped-call]
        return recorded
    return _below_autograd(operator, inputs)


def _below_autograd(operator: Any, inputs: Sequence[Any]) -> Any:
    """What an operator returns, without a gradient."""
    with torch._C._AutoDispatchBelowAutograd():
        return operator(*inputs)


def _forbid_tangents(inputs: Sequence[Any]) -> None:
    if forward_ad._current_level < 0:
        return
    for item in inputs:
        if not isinstance(item, Tensor):
            continue
        dual = forward_ad.unpack_dual(item)  # type: ignore[no-untyped-call]
        if dual.tangent is not None:
            raise RuntimeError(
                "Deformable attention has no forward-mode derivative; set "
                "LITE_FOCUS_DETR_OPS=reference in the environment to compute it with PyTorch "
                "operations"
            )


def _output_like(value: Tensor, sampling_points: Tensor) -> Tensor:
    batch, _, heads, channels = value.shape
    return value.new_empty(batch, sampling_points.shape[1], heads * channels)


def _grad_reference_like(reference_points: Tensor | None, needed: bool, value: Tensor) -> Tensor:
    if reference_points is None or not needed:
        return value.new_empty(0, dtype=torch.promote_types(value.dtype, torch.float32))
    return torch.empty_like(reference_points, memory_format=torch.contiguous_format)


def _grad_map_like(value: Tensor, needed: bool) -> Tensor:
    return _dense_like(value) if needed else value.new_empty(0)


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
    needs_value: bool,
    deterministic: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return (
        _grad_map_like(value, needs_value),
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
    needs_value: bool,
    deterministic: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    return (
        _dense_like(query),
        _grad_map_like(value, needs_value and key is not None),
        _grad_map_like(value, needs_value),
        _grad_reference_like(reference_points, needs_reference, value),
        _dense_like(sampling_points),
    )


def _save_inputs(ctx: Any, inputs: tuple[Any, ...], output: Tensor | None) -> None:
    tensors = [item if isinstance(item, Tensor) else None for item in inputs]
    ctx.save_for_backward(*tensors)
    ctx.constants = [None if isinstance(item, Tensor) else item for item in inputs]


def _restore_inputs(ctx: Any) -> list[Any]:
    pairs = zip(ctx.saved_tensors, ctx.constants, strict=True)
    return [constant if tensor is None else tensor for tensor, constant in pairs]


def wants_determinism(value: Tensor) -> bool:
    """Whether the sums of gradients must not depend on the order of additions.

    They never do on the CPU. On CUDA that takes more than twice the time, which is not spent where
    PyTorch was told to warn only.

    Args:
        value: the maps that are sampled; a warning tells if theirs will depend on the order.
    """
    if not torch.are_deterministic_algorithms_enabled():
        return False
    if not torch.is_deterministic_algorithms_warn_only_enabled():
        return True
    if value.is_cuda:
        warnings.warn(
            "The gradient of deformable attention on CUDA depends on the order of additions; it "
            "does not after torch.use_deterministic_algorithms(True), without warn_only",
            stacklevel=2,
        )
    return False


def _ms_deform_attn_grad(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
    value, *constants = _restore_inputs(ctx)
    needs_value, needs_reference = ctx.needs_input_grad[0], ctx.needs_input_grad[2]
    grad_value, grad_reference, grad_sampling, grad_weights = _call_backward(
        "ms_deform_attn_backward",
        grad_output,
        value,
        *constants,
        needs_reference,
        needs_value,
        needs_value and wants_determinism(value),
    )
    return (
        grad_value if needs_value else None,
        None,
        grad_reference if needs_reference else None,
        grad_sampling,
        grad_weights,
    )


def _key_aware_deform_attn_grad(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
    query, key, value, *constants = _restore_inputs(ctx)
    needs_map, needs_reference = any(ctx.needs_input_grad[1:3]), ctx.needs_input_grad[4]
    grad_query, grad_key, grad_value, grad_reference, grad_sampling = _call_backward(
        "key_aware_deform_attn_backward",
        grad_output,
        query,
        key,
        value,
        *constants,
        needs_reference,
        needs_map,
        needs_map and wants_determinism(value),
    )
    return (
        grad_query,
        grad_key if needs_map and key is not None else None,
        grad_value if needs_map else None,
        None,
        grad_reference if needs_reference else None,
        grad_sampling,
        None,
        None,
    )


def _call_backward(name: str, *inputs: Any) -> tuple[Tensor, ...]:
    operator = getattr(torch.ops.lite_focus_detr, name).default
    gradients: tuple[Tensor, ...]
    if torch.is_grad_enabled() or torch.compiler.is_compiling():
        gradients = operator(*inputs)  # whose own gradient is an error
    else:
        gradients = _below_autograd(operator, inputs)
    return gradients


class _MsDeformAttn(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> Tensor:
        _save_inputs(ctx, inputs, None)
        output: Tensor = _below_autograd(torch.ops.lite_focus_detr.ms_deform_attn.default, inputs)
        return output

    backward = staticmethod(_ms_deform_attn_grad)


class _KeyAwareDeformAttn(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> Tensor:
        _save_inputs(ctx, inputs, None)
        output: Tensor = _below_autograd(
            torch.ops.lite_focus_detr.key_aware_deform_attn.default, inputs
        )
        return output

    backward = staticmethod(_key_aware_deform_attn_grad)


_FUNCTIONS = {"ms_deform_attn": _MsDeformAttn, "key_aware_deform_attn": _KeyAwareDeformAttn}


def _raise_double_backward(ctx: Any, *grads: Tensor) -> NoReturn:
    raise RuntimeError(
        "Deformable attention has no second derivative; set LITE_FOCUS_DETR_OPS=reference in the "
        "environment to compute it with PyTorch operations"
    )
