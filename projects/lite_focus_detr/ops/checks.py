"""Checks of the operators' arguments, the same for the native kernels and for the reference."""

from __future__ import annotations

from torch import Tensor

from .reference import SpatialShapes


def check_maps(value: Tensor, spatial_shapes: SpatialShapes, name: str = "value") -> None:
    """Raise ValueError unless ``value`` (B, S, M, D) holds the maps of ``spatial_shapes``."""
    if value.dim() != 4 or not value.is_floating_point():
        raise ValueError(
            f"{name} must be a floating-point tensor (B, S, M, D), got shape "
            f"{tuple(value.shape)} of {value.dtype}"
        )
    tokens = 0
    for shape in spatial_shapes:
        if len(shape) != 2:
            tokens = 0
            break
        height, width = shape
        if height < 1 or width < 1:
            raise ValueError(f"spatial_shapes must be positive, got {list(spatial_shapes)}")
        tokens += height * width
    if tokens == 0:
        raise ValueError(f"spatial_shapes must list one (H, W) per level, got {spatial_shapes}")
    if value.shape[1] != tokens:
        raise ValueError(
            f"{name} of shape {tuple(value.shape)} has {value.shape[1]} tokens, but spatial_shapes "
            f"{list(spatial_shapes)} have {tokens} pixels; they must be the (H, W) of all levels"
        )


def check_shape(
    name: str, tensor: Tensor, expected: tuple[int | str, ...], value: Tensor, levels: int
) -> None:
    """Raise ValueError unless ``tensor`` has the expected shape and the device of ``value``.

    An entry of ``expected`` that is a string is the name of a size that may be anything.
    """
    if not _matches(tensor, expected) or not tensor.is_floating_point():
        shape = ", ".join(str(size) for size in expected)
        raise ValueError(
            f"{name} must be a floating-point tensor of shape ({shape}) to go with value "
            f"{tuple(value.shape)} and {levels} levels, got {tuple(tensor.shape)} of {tensor.dtype}"
        )
    if tensor.device != value.device:
        raise ValueError(
            f"{name} {tuple(tensor.shape)} is on {tensor.device}, but value {tuple(value.shape)} "
            f"is on {value.device}; all tensors must be on one device"
        )


def _matches(tensor: Tensor, expected: tuple[int | str, ...]) -> bool:
    if tensor.dim() != len(expected):
        return False
    # A loop, because a call of a decoder lasts little longer than its checks.
    for size, length in zip(tensor.shape, expected, strict=True):
        if size != length and not isinstance(length, str):
            return False
    return True


def check_locations(locations: Tensor, value: Tensor, levels: int) -> None:
    """Raise ValueError unless ``locations`` is (B, Q, M, L, P, 2)."""
    batch, _, heads, _ = value.shape
    check_shape("sampling_locations", locations, (batch, "Q", heads, levels, "P", 2), value, levels)


def check_references(references: Tensor, offsets: Tensor, value: Tensor, levels: int) -> None:
    """Raise ValueError unless references are (B, Q, L, 2|4), offsets (B, Q, M, L|1, P, 2)."""
    batch, _, heads, _ = value.shape
    if references.dim() == 4 and references.shape[-1] not in (2, 4):
        raise ValueError(
            "reference_points must be points (B, Q, L, 2) or boxes (B, Q, L, 4), got "
            f"{tuple(references.shape)}"
        )
    last = references.shape[-1] if references.dim() == 4 else "2|4"
    check_shape("reference_points", references, (batch, "Q", levels, last), value, levels)
    queries = references.shape[1]
    broadcast = offsets.dim() == 6 and offsets.shape[3] == 1
    expected = (batch, queries, heads, 1 if broadcast else levels, "P", 2)
    check_shape("sampling_offsets", offsets, expected, value, levels)


def check_key_and_query(
    query: Tensor, key: Tensor | None, value: Tensor, points: Tensor, levels: int
) -> None:
    """Raise ValueError unless ``query`` is (B, Q, M, D) and ``key``, if any, is like ``value``."""
    batch, tokens, heads, channels = value.shape
    check_shape("query", query, (batch, points.shape[1], heads, channels), value, levels)
    if key is not None:
        check_shape("key", key, (batch, tokens, heads, channels), value, levels)
