"""The operators: checks of their arguments, then a native kernel or the reference."""

from __future__ import annotations

import torch
from torch import Tensor

from . import checks, native, reference, registration
from .autocast import autocast_dtype
from .reference import SpatialShapes


def multi_scale_deformable_attention(
    value: Tensor,
    spatial_shapes: SpatialShapes,
    sampling_locations: Tensor,
    attention_weights: Tensor,
) -> Tensor:
    """See :func:`lite_focus_detr.ops.reference.multi_scale_deformable_attention`.

    Raises:
        ValueError: a shape, dtype or device does not fit; the message names the tensor.
    """
    levels = len(spatial_shapes)
    checks.check_maps(value, spatial_shapes)
    checks.check_locations(sampling_locations, value, levels)
    shape = sampling_locations.shape[:-1]
    checks.check_shape("attention_weights", attention_weights, shape, value, levels)
    return _deformable_attention(value, spatial_shapes, None, sampling_locations, attention_weights)


def key_aware_deformable_attention(
    query: Tensor,
    key: Tensor | None,
    value: Tensor,
    spatial_shapes: SpatialShapes,
    sampling_locations: Tensor,
    scale: float | None = None,
    mask_outside: bool = False,
) -> Tensor:
    """See :func:`lite_focus_detr.ops.reference.key_aware_deformable_attention`.

    Raises:
        ValueError: a shape, dtype or device does not fit; the message names the tensor.
    """
    levels = len(spatial_shapes)
    checks.check_maps(value, spatial_shapes)
    checks.check_locations(sampling_locations, value, levels)
    checks.check_key_and_query(query, key, value, sampling_locations, levels)
    return _key_aware_attention(
        query, key, value, spatial_shapes, None, sampling_locations, scale, mask_outside
    )


def fused_deformable_attention(
    value: Tensor,
    spatial_shapes: SpatialShapes,
    reference_points: Tensor,
    sampling_offsets: Tensor,
    attention_logits: Tensor,
) -> Tensor:
    """See :func:`lite_focus_detr.ops.reference.fused_deformable_attention`.

    Raises:
        ValueError: a shape, dtype or device does not fit; the message names the tensor.
    """
    levels = len(spatial_shapes)
    checks.check_maps(value, spatial_shapes)
    checks.check_references(reference_points, sampling_offsets, value, levels)
    shape = (*sampling_offsets.shape[:3], levels * sampling_offsets.shape[4])
    checks.check_shape("attention_logits", attention_logits, shape, value, levels)
    return _deformable_attention(
        value, spatial_shapes, reference_points, sampling_offsets, attention_logits
    )


def fused_key_aware_deformable_attention(
    query: Tensor,
    key: Tensor | None,
    value: Tensor,
    spatial_shapes: SpatialShapes,
    reference_points: Tensor,
    sampling_offsets: Tensor,
    scale: float | None = None,
    mask_outside: bool = False,
) -> Tensor:
    """See :func:`lite_focus_detr.ops.reference.fused_key_aware_deformable_attention`.

    Raises:
        ValueError: a shape, dtype or device does not fit; the message names the tensor.
    """
    levels = len(spatial_shapes)
    checks.check_maps(value, spatial_shapes)
    checks.check_references(reference_points, sampling_offsets, value, levels)
    checks.check_key_and_query(query, key, value, sampling_offsets, levels)
    return _key_aware_attention(
        query, key, value, spatial_shapes, reference_points, sampling_offsets, scale, mask_outside
    )


def _deformable_attention(
    value: Tensor,
    spatial_shapes: SpatialShapes,
    reference_points: Tensor | None,
    points: Tensor,
    weights: Tensor,
) -> Tensor:
    """From offsets ``points`` and logits ``weights``; without references from locations and weights
    that sum to one."""
    value = _to(value, autocast_dtype(value))
    if native.supports(value):
        return registration.call(
            "ms_deform_attn",
            value,
            [size for shape in spatial_shapes for size in shape],
            *_native_points(reference_points, points, value),
            _native_dtype(weights, value),
        )
    if reference_points is None:
        return reference.multi_scale_deformable_attention(value, spatial_shapes, points, weights)
    return reference.fused_deformable_attention(
        value, spatial_shapes, reference_points, points, weights
    )


def _key_aware_attention(
    query: Tensor,
    key: Tensor | None,
    value: Tensor,
    spatial_shapes: SpatialShapes,
    reference_points: Tensor | None,
    points: Tensor,
    scale: float | None,
    mask_outside: bool,
) -> Tensor:
    """From offsets ``points``; without references from locations."""
    value = _to(value, autocast_dtype(value))
    if native.supports(value):
        return registration.call(
            "key_aware_deform_attn",
            _to(query, value.dtype),
            None if key is None else _to(key, value.dtype),
            value,
            [size for shape in spatial_shapes for size in shape],
            *_native_points(reference_points, points, value),
            value.shape[-1] ** -0.5 if scale is None else scale,
            mask_outside,
        )
    if reference_points is None:
        return reference.key_aware_deformable_attention(
            query, key, value, spatial_shapes, points, scale, mask_outside
        )
    return reference.fused_key_aware_deformable_attention(
        query, key, value, spatial_shapes, reference_points, points, scale, mask_outside
    )


def _native_points(
    reference_points: Tensor | None, points: Tensor, value: Tensor
) -> tuple[Tensor | None, Tensor]:
    """References and locations in the dtype of the arithmetic; offsets may stay in half."""
    exact = _arithmetic_dtype(value)
    if reference_points is None:
        return None, _to(points, exact)
    return _to(reference_points, exact), _native_dtype(points, value)


def _native_dtype(tensor: Tensor, value: Tensor) -> Tensor:
    return tensor if tensor.dtype == value.dtype else _to(tensor, _arithmetic_dtype(value))


def _arithmetic_dtype(value: Tensor) -> torch.dtype:
    return torch.float64 if value.dtype == torch.float64 else torch.float32


def _to(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """``tensor.to(dtype)`` without the call of PyTorch where there is nothing to do."""
    return tensor if tensor.dtype == dtype else tensor.to(dtype)
