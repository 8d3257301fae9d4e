"""Multi-scale and key-aware deformable attention.

Each operator runs a native kernel where one is available for the device and the dtype, else the
PyTorch formulation in :mod:`lite_focus_detr.ops.reference`, which is their specification; the
arguments are described there. ``LITE_FOCUS_DETR_OPS=reference`` in the environment forces it. Under
autocast values, keys and queries are taken in its dtype, locations and references are not.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lite_focus_detr.ops import checks, native, reference
from lite_focus_detr.ops.autocast import autocast_dtype
from lite_focus_detr.ops.native import backend, unavailable_reason
from lite_focus_detr.ops.reference import SpatialShapes

__all__ = [
    "backend",
    "fused_deformable_attention",
    "fused_key_aware_deformable_attention",
    "key_aware_deformable_attention",
    "multi_scale_deformable_attention",
    "reference",
    "unavailable_reason",
]


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
    value = value.to(autocast_dtype(value))
    if not native.supports(value):
        return reference.multi_scale_deformable_attention(
            value, spatial_shapes, sampling_locations, attention_weights
        )
    return _ms_deform_attn(value, spatial_shapes, None, sampling_locations, attention_weights)


def key_aware_deformable_attention(
    query: Tensor,
    key: Tensor | None,
    value: Tensor,
    spatial_shapes: SpatialShapes,
    sampling_locations: Tensor,
    scale: float | None = None,
) -> Tensor:
    """See :func:`lite_focus_detr.ops.reference.key_aware_deformable_attention`.

    Raises:
        ValueError: a shape, dtype or device does not fit; the message names the tensor.
    """
    levels = len(spatial_shapes)
    checks.check_maps(value, spatial_shapes)
    checks.check_locations(sampling_locations, value, levels)
    checks.check_key_and_query(query, key, value, sampling_locations, levels)
    value = value.to(autocast_dtype(value))
    if not native.supports(value):
        return reference.key_aware_deformable_attention(
            query, key, value, spatial_shapes, sampling_locations, scale
        )
    return _key_aware_deform_attn(
        query, key, value, spatial_shapes, None, sampling_locations, scale
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
    value = value.to(autocast_dtype(value))
    if not native.supports(value):
        return reference.fused_deformable_attention(
            value, spatial_shapes, reference_points, sampling_offsets, attention_logits
        )
    return _ms_deform_attn(
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
) -> Tensor:
    """See :func:`lite_focus_detr.ops.reference.fused_key_aware_deformable_attention`.

    Raises:
        ValueError: a shape, dtype or device does not fit; the message names the tensor.
    """
    levels = len(spatial_shapes)
    checks.check_maps(value, spatial_shapes)
    checks.check_references(reference_points, sampling_offsets, value, levels)
    checks.check_key_and_query(query, key, value, sampling_offsets, levels)
    value = value.to(autocast_dtype(value))
    if not native.supports(value):
        return reference.fused_key_aware_deformable_attention(
            query, key, value, spatial_shapes, reference_points, sampling_offsets, scale
        )
    return _key_aware_deform_attn(
        query, key, value, spatial_shapes, reference_points, sampling_offsets, scale
    )


def _ms_deform_attn(
    value: Tensor,
    spatial_shapes: SpatialShapes,
    reference_points: Tensor | None,
    sampling_points: Tensor,
    weights: Tensor,
) -> Tensor:
    references, points = _native_points(value, reference_points, sampling_points)
    output: Tensor = torch.ops.lite_focus_detr.ms_deform_attn(
        value,
        [size for shape in spatial_shapes for size in shape],
        references,
        points,
        _native_dtype(weights, value),
    )
    return output


def _key_aware_deform_attn(
    query: Tensor,
    key: Tensor | None,
    value: Tensor,
    spatial_shapes: SpatialShapes,
    reference_points: Tensor | None,
    sampling_points: Tensor,
    scale: float | None,
) -> Tensor:
    references, points = _native_points(value, reference_points, sampling_points)
    output: Tensor = torch.ops.lite_focus_detr.key_aware_deform_attn(
        query.to(value.dtype),
        None if key is None else key.to(value.dtype),
        value,
        [size for shape in spatial_shapes for size in shape],
        references,
        points,
        value.shape[-1] ** -0.5 if scale is None else scale,
    )
    return output


def _native_points(
    value: Tensor, reference_points: Tensor | None, points: Tensor
) -> tuple[Tensor | None, Tensor]:
    """References and locations in the dtype of the arithmetic; offsets may stay in half."""
    exact = _arithmetic_dtype(value)
    if reference_points is None:
        return None, points.to(exact)
    return reference_points.to(exact), _native_dtype(points, value)


def _native_dtype(tensor: Tensor, value: Tensor) -> Tensor:
    return tensor if tensor.dtype == value.dtype else tensor.to(_arithmetic_dtype(value))


def _arithmetic_dtype(value: Tensor) -> torch.dtype:
    return torch.promote_types(value.dtype, torch.float32)
