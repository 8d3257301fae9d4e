"""From feature levels to the token sequence of the encoder: positions, centres and padding."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from detectron2.structures import ImageList
from torch import Tensor

from .position_encoding import sine_grid_embedding
from .structures import FeatureTokens


class _LevelGeometry(NamedTuple):
    """What follows from the sizes of a level and of the images."""

    mask: Tensor  # (B, H, W) bool on the CPU, True outside the image
    valid_size: Tensor  # (B, 2) un-padded (width, height), float on the CPU
    num_valid: Tensor  # (B,) un-padded tokens


def flatten_levels(
    levels: Sequence[Tensor],
    level_embed: Tensor,
    images: ImageList,
    *,
    strides: Sequence[int],
    temperature: float,
    offset: float,
) -> FeatureTokens:
    """Join the levels and attach positions, masks and centres.

    Args:
        levels: (B, C, H_l, W_l), fine to coarse.
        level_embed: (L, C), added to the positions.
        images: of which the sizes count.
        strides: pixels per token of each level.
        temperature: of the sine position, see :func:`sine_grid_embedding`.
        offset: likewise.
    """
    device, dtype = levels[0].device, torch.promote_types(levels[0].dtype, torch.float32)
    # Masks are built on the CPU from the image sizes: no GPU sync.
    sizes = torch.tensor([(int(height), int(width)) for height, width in images.image_sizes])
    shapes = tuple((int(x.shape[-2]), int(x.shape[-1])) for x in levels)
    geometry = [_geometry(shape, sizes, images.tensor.shape[-2:], dtype) for shape in shapes]
    masks = [x.mask.to(device, non_blocking=True) for x in geometry]
    valid_sizes = [x.valid_size.to(device, non_blocking=True) for x in geometry]
    positions = [
        sine_grid_embedding(~mask, embed.numel(), temperature, offset).flatten(1, 2) + embed
        for mask, embed in zip(masks, level_embed, strict=True)
    ]
    centers = [_centers(shape, valid) for shape, valid in zip(shapes, valid_sizes, strict=True)]
    ratios = [
        x.valid_size / torch.tensor((width, height))
        for x, (height, width) in zip(geometry, shapes, strict=True)
    ]
    return FeatureTokens(
        features=torch.cat([x.flatten(2).transpose(1, 2) for x in levels], 1),
        position=torch.cat(positions, 1),
        padding_mask=torch.cat([mask.flatten(1) for mask in masks], 1),
        centers=torch.cat(centers, 1),
        valid_ratios=torch.stack(ratios, 1).to(device, non_blocking=True),
        spatial_shapes=shapes,
        num_valid=tuple(torch.stack([x.num_valid for x in geometry]).sum(0).tolist()),
        image_sizes=tuple((int(height), int(width)) for height, width in images.image_sizes),
        strides=tuple(strides),
    )


def _geometry(
    shape: tuple[int, int], sizes: Tensor, padded: tuple[int, int], dtype: torch.dtype
) -> _LevelGeometry:
    """``sizes`` (B, 2) are the (height, width) of the images in a batch of the size ``padded``."""
    outside = []
    for axis in (0, 1):
        lines = torch.arange(padded[axis]) >= sizes[:, axis, None]
        # Nearest-neighbour resampling, as upstream does with the masks.
        resized = F.interpolate(lines[:, None].float(), size=shape[axis])[:, 0].bool()
        outside.append(resized)
    rows, columns = outside
    mask = rows[:, :, None] | columns[:, None, :]
    valid_size = torch.stack(((~columns).sum(1), (~rows).sum(1)), -1)
    return _LevelGeometry(mask, valid_size.to(dtype), valid_size.prod(-1))


def _centers(shape: tuple[int, int], valid_size: Tensor) -> Tensor:
    """Centres (B, H * W, 2) of a level's cells relative to its un-padded part."""
    axes = [
        torch.arange(count, dtype=valid_size.dtype, device=valid_size.device) + 0.5
        for count in reversed(shape)
    ]
    grid = torch.stack(torch.meshgrid(*axes, indexing="xy"), -1)
    return grid.flatten(0, 1) / valid_size[:, None]
