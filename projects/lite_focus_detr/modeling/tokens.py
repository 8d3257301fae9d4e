"""From feature levels to the token sequence of the encoder: positions, centres and padding."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from detectron2.structures import ImageList
from torch import Tensor

from .position_encoding import sine_grid_embedding
from .structures import FeatureTokens


def flatten_levels(
    levels: Sequence[Tensor],
    level_embed: Tensor,
    images: ImageList,
    strides: Sequence[int],
    position: tuple[float, float],
) -> FeatureTokens:
    """Join the levels and attach positions, masks and centres.

    Args:
        levels: (B, C, H_l, W_l), fine to coarse.
        level_embed: (L, C), added to the positions.
        images: of which the sizes count.
        strides: pixels per token of each level.
        position: temperature and offset of :func:`sine_grid_embedding`.
    """
    image_sizes = tuple((int(height), int(width)) for height, width in images.image_sizes)
    shapes = tuple((int(x.shape[-2]), int(x.shape[-1])) for x in levels)
    parts = []
    for x, embed in zip(levels, level_embed, strict=True):
        mask, valid_size = _padding(x, torch.tensor(image_sizes), images.tensor.shape[-2:])
        embedded = (sine_grid_embedding(~mask, len(embed), *position) + embed).flatten(1, 2)
        features = x.flatten(2).transpose(1, 2)
        parts.append((features, embedded, mask.flatten(1), _centers(x, valid_size), valid_size))
    *joined, valid_sizes = zip(*parts, strict=True)
    features, embedded, padding_mask, centers = (torch.cat(x, 1) for x in joined)
    valid_size = torch.stack(valid_sizes, 1)  # (B, L, 2)
    level_valid = valid_size.prod(-1).long()
    map_size = torch.tensor([(width, height) for height, width in shapes])
    return FeatureTokens(
        features=features,
        position=embedded,
        padding_mask=padding_mask,
        centers=centers,
        valid_ratios=(valid_size / map_size).to(features.device, non_blocking=True),
        spatial_shapes=shapes,
        num_valid=tuple(level_valid.sum(1).tolist()),
        image_sizes=image_sizes,
        strides=tuple(strides),
        level_valid=tuple(map(tuple, level_valid.tolist())),
    )


def _padding(x: Tensor, sizes: Tensor, padded: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Padding mask (B, H, W) of a level, and its un-padded (width, height), (B, 2) on the CPU, for
    images of the ``sizes`` (B, 2), (height, width), in a batch of the size ``padded``."""
    # Made on the CPU from the image sizes: no GPU sync.
    outside = []
    for axis in (0, 1):
        lines = torch.arange(padded[axis]) >= sizes[:, axis, None]
        # Nearest-neighbour resampling, as upstream does with the masks.
        resized = F.interpolate(lines[:, None].float(), size=x.shape[2 + axis])[:, 0].bool()
        outside.append(resized)
    rows, columns = outside
    mask = (rows[:, :, None] | columns[:, None, :]).to(x.device, non_blocking=True)
    valid_size = torch.stack(((~columns).sum(1), (~rows).sum(1)), -1)
    return mask, valid_size.to(torch.promote_types(x.dtype, torch.float32))


def _centers(x: Tensor, valid_size: Tensor) -> Tensor:
    """Centres (B, H * W, 2) of the cells of a level (B, C, H, W) relative to its un-padded part."""
    valid_size = valid_size.to(x.device, non_blocking=True)
    rows, columns = (torch.arange(n, device=x.device).to(valid_size) + 0.5 for n in x.shape[2:])
    grid = torch.stack(torch.meshgrid(columns, rows, indexing="xy"), -1)
    return grid.flatten(0, 1) / valid_size[:, None]
