"""The deformable attention operators in plain PyTorch: the specification of the native kernels.

Notation: B batch, S tokens of all levels, Q queries, M heads, D channels of a head, L levels,
P points per level and head. A location (0, 0) is the top-left corner of a map and (1, 1) its
bottom-right corner; the centre of pixel (i, j) lies at ((j + 0.5) / W, (i + 0.5) / H). Maps are
interpolated bilinearly and are zero outside. Infinite locations lie outside, NaN gives NaN unless
points outside are masked: then it is one of them.

Half-precision values are computed in float32, locations are never rounded below float32, and
the result has the dtype of ``value``.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

SpatialShapes = Sequence[Sequence[int]]


def multi_scale_deformable_attention(
    value: Tensor,
    spatial_shapes: SpatialShapes,
    sampling_locations: Tensor,
    attention_weights: Tensor,
) -> Tensor:
    """Sum of sampled values with given weights, Eq. 3 of Deformable DETR (arXiv:2010.04159).

    Args:
        value: (B, S, M, D), the levels one after the other, each row by row.
        spatial_shapes: the (H, W) of the L levels.
        sampling_locations: (B, Q, M, L, P, 2), (x, y) in units of the map.
        attention_weights: (B, Q, M, L, P), any real numbers.

    Returns:
        (B, Q, M * D) in the dtype of ``value``.
    """
    dtype = _compute_dtype(value, sampling_locations)
    weights = attention_weights.to(dtype)
    output = torch.zeros((), dtype=dtype, device=value.device)
    samples = _sample_levels(value.to(dtype), spatial_shapes, sampling_locations.to(dtype))
    for level, sampled in enumerate(samples):
        output = output + _weighted_sum(sampled, weights[:, :, :, level])
    return output.flatten(2).to(value.dtype)


def key_aware_deformable_attention(
    query: Tensor,
    key: Tensor | None,
    value: Tensor,
    spatial_shapes: SpatialShapes,
    sampling_locations: Tensor,
    scale: float | None = None,
    mask_outside: bool = False,
) -> Tensor:
    """Attention of each query to the keys sampled at its points (arXiv:2303.07335, section 3.4).

    The weights are the softmax over all L * P points of ``scale * query . sampled key``. A point
    outside of its map (:func:`points_outside`) has a zero key, hence the logit 0, and a zero value:
    as published it still takes its share exp(0) of the softmax. ``mask_outside`` takes it out, so
    that the weights of the others sum to one; a query without any other gives zero. The result
    jumps where a point enters its map.

    Args:
        query: (B, Q, M, D).
        key: (B, S, M, D), or None when the key is the value.
        value: (B, S, M, D).
        spatial_shapes: the (H, W) of the L levels.
        sampling_locations: (B, Q, M, L, P, 2), (x, y) in units of the map.
        scale: factor of the logits, by default D ** -0.5.
        mask_outside: take points outside of their map out of the softmax.

    Returns:
        (B, Q, M * D) in the dtype of ``value``.
    """
    dtype = _compute_dtype(value, sampling_locations)
    locations = sampling_locations.to(dtype)
    outside = points_outside(spatial_shapes, locations) if mask_outside else None
    if outside is not None:
        # A location that is not a number must not reach the sums: -1 is outside of every map.
        locations = locations.masked_fill(outside[..., None], -1.0)
    values = _sample_levels(value.to(dtype), spatial_shapes, locations)
    keys = values if key is None else _sample_levels(key.to(dtype), spatial_shapes, locations)
    weights = _key_weights(query.to(dtype), keys, scale, outside).chunk(len(spatial_shapes), -1)
    output = torch.zeros((), dtype=dtype, device=value.device)
    for sampled, level_weights in zip(values, weights, strict=True):
        output = output + _weighted_sum(sampled, level_weights)
    return output.flatten(2).to(value.dtype)


def fused_deformable_attention(
    value: Tensor,
    spatial_shapes: SpatialShapes,
    reference_points: Tensor,
    sampling_offsets: Tensor,
    attention_logits: Tensor,
) -> Tensor:
    """:func:`multi_scale_deformable_attention` from what the linear layers of a module return.

    Args:
        value: (B, S, M, D).
        spatial_shapes: the (H, W) of the L levels.
        reference_points: (B, Q, L, 2) points (x, y) or (B, Q, L, 4) boxes (cx, cy, w, h).
        sampling_offsets: (B, Q, M, L, P, 2); in pixels of their level from a point, in
            fractions 1 / (2 P) of the size from the centre of a box. With one level in place
            of L the offsets are the same on every level.
        attention_logits: (B, Q, M, L * P), softmax is taken over the last axis.

    Returns:
        (B, Q, M * D) in the dtype of ``value``.
    """
    locations = sampling_locations(spatial_shapes, reference_points, sampling_offsets)
    weights = attention_logits.to(_compute_dtype(value, locations)).softmax(-1)
    return multi_scale_deformable_attention(
        value, spatial_shapes, locations, weights.view(locations.shape[:-1])
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
    """:func:`key_aware_deformable_attention` from reference points and raw offsets.

    The arguments are those of :func:`key_aware_deformable_attention` and
    :func:`fused_deformable_attention`.

    Returns:
        (B, Q, M * D) in the dtype of ``value``.
    """
    locations = sampling_locations(spatial_shapes, reference_points, sampling_offsets)
    return key_aware_deformable_attention(
        query, key, value, spatial_shapes, locations, scale, mask_outside
    )


def sampling_locations(
    spatial_shapes: SpatialShapes, reference_points: Tensor, sampling_offsets: Tensor
) -> Tensor:
    """Locations in units of the map, (B, Q, M, L, P, 2), in float32 or float64.

    The arguments are those of :func:`fused_deformable_attention`.
    """
    dtype = _compute_dtype(reference_points, sampling_offsets)
    offsets = sampling_offsets.to(dtype)
    reference = reference_points.to(dtype)[:, :, None, :, None]  # (B, Q, 1, L, 1, 2 or 4)
    if reference.shape[-1] == 2:
        return reference + offsets / level_sizes(spatial_shapes, offsets)[:, None]
    return reference[..., :2] + offsets / offsets.shape[-2] * reference[..., 2:] * 0.5


def level_sizes(spatial_shapes: SpatialShapes, like: Tensor) -> Tensor:
    """The (width, height) of the L levels, (L, 2), with the dtype and on the device of ``like``."""
    sizes = [(width, height) for height, width in spatial_shapes]
    if isinstance(sizes[0][0], torch.SymInt):
        # torch.export: the sizes are symbols, which torch.tensor would take as constants.
        return torch.stack([torch.stack([like.new_full((), n) for n in size]) for size in sizes])
    return torch.tensor(sizes, dtype=like.dtype, device=like.device)


def fused_key_aware_weights(
    query: Tensor,
    key: Tensor,
    spatial_shapes: SpatialShapes,
    reference_points: Tensor,
    sampling_offsets: Tensor,
    scale: float | None = None,
    mask_outside: bool = False,
) -> Tensor:
    """The weights of :func:`fused_key_aware_deformable_attention`, (B, Q, M, L * P).

    The arguments are the same; ``key`` is the value where that is the key. Masked points have the
    weight zero, also where all points of a head are masked.
    """
    locations = sampling_locations(spatial_shapes, reference_points, sampling_offsets)
    locations = locations.to(_compute_dtype(key, locations))
    keys = _sample_levels(key.to(locations.dtype), spatial_shapes, locations)
    outside = points_outside(spatial_shapes, locations) if mask_outside else None
    weights = _key_weights(query.to(locations.dtype), keys, scale, outside)
    return weights if outside is None else weights.masked_fill(outside.flatten(-2), 0.0)


def points_outside(spatial_shapes: SpatialShapes, sampling_locations: Tensor) -> Tensor:
    """Which points touch no pixel of their map: bilinear interpolation there gives zero.

    In pixels, with the centre of the first one at 0, these are the points with x <= -1, x >= W,
    y <= -1 or y >= H, and those with a coordinate that is not a number.

    Args:
        spatial_shapes: the (H, W) of the L levels.
        sampling_locations: (B, Q, M, L, P, 2), (x, y) in units of the map.

    Returns:
        (B, Q, M, L, P), of bool.
    """
    sizes = level_sizes(spatial_shapes, sampling_locations)
    pixels = sampling_locations * sizes[:, None] - 0.5
    return ~((pixels > -1) & (pixels < sizes[:, None])).all(-1)


def _compute_dtype(first: Tensor, second: Tensor) -> torch.dtype:
    return torch.promote_types(torch.promote_types(first.dtype, second.dtype), torch.float32)


def _sample_levels(value: Tensor, spatial_shapes: SpatialShapes, locations: Tensor) -> list[Tensor]:
    """Interpolated value per level, each (B, Q, M, P, D)."""
    batch, _, heads, channels = value.shape
    # Beyond [-1, 2] a point is outside of every map; the bounds keep infinities out of the sum.
    grid = 2 * locations.clamp(-1, 2) - 1
    sampled = []
    tokens = torch.split(value, [height * width for height, width in spatial_shapes], dim=1)
    for level, (height, width) in enumerate(spatial_shapes):
        level_map = tokens[level].permute(0, 2, 3, 1)
        level_map = level_map.reshape(batch * heads, channels, height, width)
        level_grid = grid[:, :, :, level].transpose(1, 2).flatten(0, 1)  # (B * M, Q, P, 2)
        level_sampled = F.grid_sample(level_map, level_grid, align_corners=False)
        level_sampled = level_sampled.view(batch, heads, channels, *level_grid.shape[1:3])
        sampled.append(level_sampled.permute(0, 3, 1, 4, 2))
    return sampled


def _key_weights(
    query: Tensor, keys: Sequence[Tensor], scale: float | None, outside: Tensor | None
) -> Tensor:
    """Softmax over all points of the products of a query (B, Q, M, D) and its sampled keys."""
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    scaled_query = query.unsqueeze(-2) * scale  # (B, Q, M, 1, D)
    logits = torch.cat([(scaled_query * sampled).sum(-1) for sampled in keys], dim=-1)
    if outside is not None:
        # Finite: without a point inside the softmax is not NaN, and the samples are zero.
        logits = logits.masked_fill(outside.flatten(-2), torch.finfo(logits.dtype).min)
    return logits.softmax(-1)


def _weighted_sum(sampled: Tensor, weights: Tensor) -> Tensor:
    return (sampled * weights.unsqueeze(-1)).sum(-2)  # (B, Q, M, D)
