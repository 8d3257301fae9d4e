"""From feature levels to the token sequence of the encoder: positions, centres and padding."""

from collections.abc import Sequence

import torch
from detectron2.structures import ImageList
from torch import Tensor

from ..ops.reference import level_sizes
from .position_encoding import sine_grid_embedding
from .structures import FeatureTokens, SpatialShapes


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
        images: of which the sizes count; a single size is that of all images.
        strides: pixels per token of each level.
        position: temperature and offset of :func:`sine_grid_embedding`.
    """
    shapes = tuple(_numbers(x.shape[-2:]) for x in levels)
    image_sizes = tuple(_numbers(size) for size in images.image_sizes)
    padded = _numbers(images.tensor.shape[-2:])
    inside = [_valid_shapes(shapes, size, padded) for size in image_sizes]
    # On the CPU, so that no kernel launch has to wait.
    sizes = torch.empty(0, dtype=torch.promote_types(levels[0].dtype, torch.float32))
    valid_sizes = torch.stack([level_sizes(x, sizes) for x in inside])  # (B, L, 2)
    valid_ratios = valid_sizes / level_sizes(shapes, sizes)
    valid_sizes = valid_sizes.to(levels[0].device, non_blocking=True)
    parts = []
    for x, embed, valid_size in zip(levels, level_embed, valid_sizes.unbind(1), strict=True):
        centers, mask = _centers(x, valid_size)
        embedded = sine_grid_embedding(~mask, len(embed), *position) + embed
        parts.append([y.flatten(1, 2) for y in (x.permute(0, 2, 3, 1), embedded, mask, centers)])
    features, embedded, padding_mask, centers = (torch.cat(x, 1) for x in zip(*parts, strict=True))
    batch = features.shape[0]
    level_valid = tuple(tuple(height * width for height, width in x) for x in inside)
    return FeatureTokens(
        features=features,
        position=embedded.expand(batch, -1, -1),
        padding_mask=padding_mask.expand(batch, -1),
        centers=centers.expand(batch, -1, -1),
        valid_ratios=valid_ratios.to(features.device, non_blocking=True).expand(batch, -1, -1),
        spatial_shapes=shapes,
        num_valid=tuple(map(sum, level_valid)),
        image_sizes=image_sizes,
        strides=tuple(strides),
        level_valid=level_valid,
    )


def split_levels(x: Tensor, spatial_shapes: SpatialShapes) -> tuple[Tensor, ...]:
    """What of tokens (B, S, ...) belongs to each level: (B, H_l * W_l, ...)."""
    return torch.split(x, [height * width for height, width in spatial_shapes], 1)


def level_maps(x: Tensor, spatial_shapes: SpatialShapes) -> list[Tensor]:
    """Tokens (B, S, C) as a map of each level, (B, C, H_l, W_l)."""
    pairs = zip(split_levels(x, spatial_shapes), spatial_shapes, strict=True)
    return [torch.unflatten(level.mT, 2, shape) for level, shape in pairs]


def _numbers(size: Sequence[int]) -> tuple[int, int]:
    """A (height, width) without tensors, which torch.jit, for GFLOPs, makes of sizes."""
    height, width = (int(n) if isinstance(n, Tensor) else n for n in size)
    return height, width


def _valid_shapes(
    shapes: SpatialShapes, size: tuple[int, int], padded: tuple[int, int]
) -> SpatialShapes:
    """Un-padded (height, width) of each level of an image of ``size`` in a batch of the size
    ``padded``: of the cells whose nearest pixel, as upstream resamples masks, is in the image."""
    return tuple((-(-size[0] * h // padded[0]), -(-size[1] * w // padded[1])) for h, w in shapes)


def _centers(x: Tensor, valid_size: Tensor) -> tuple[Tensor, Tensor]:
    """Centres (B, H, W, 2) of the cells of a level (B, C, H, W) relative to its un-padded part of
    (width, height) ``valid_size`` (B, 2), and which cells are padding (B, H, W)."""
    rows, columns = (torch.arange(n, device=x.device).to(valid_size) + 0.5 for n in x.shape[2:])
    grid = torch.stack(torch.meshgrid(columns, rows, indexing="xy"), -1)
    valid_size = valid_size[:, None, None]
    return grid / valid_size, (grid > valid_size).any(-1)
