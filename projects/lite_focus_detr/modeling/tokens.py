"""From backbone maps to the token sequence of the encoder: neck, positions and padding."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from detectron2.structures import ImageList
from torch import Tensor, nn

from .position_encoding import sine_grid_embedding


class FeatureTokens(NamedTuple):
    """All feature levels of a batch as one sequence, fine to coarse, rows first.

    The only place that knows about padding. B images, S tokens, C channels, L levels.
    """

    features: Tensor  #: (B, S, C)
    position: Tensor  #: (B, S, C) sine plus level embedding, to be added to queries only
    padding_mask: Tensor  #: (B, S) bool, True outside the image
    centers: Tensor  #: (B, S, 2) token centres (x, y); the un-padded image is [0, 1]
    valid_ratios: Tensor  #: (B, L, 2) un-padded share (x, y) of each level's map
    spatial_shapes: tuple[tuple[int, int], ...]  #: (height, width) of each level
    num_valid: tuple[int, ...]  #: tokens inside each image
    image_sizes: tuple[tuple[int, int], ...] = ()  #: (height, width) in pixels, un-padded
    strides: tuple[int, ...] = ()  #: pixels per token of each level
    batch_invariant: bool = False  #: no image may depend on the others, where upstream lets it

    def to_levels(self, reference: Tensor) -> Tensor:
        """Points (B, Q, 2) or boxes (B, Q, 4) cxcywh of the un-padded image in the padded maps of
        the levels, (B, Q, L, 2 or 4), that the attention samples from."""
        ratios = self.valid_ratios.repeat(1, 1, reference.shape[-1] // 2)
        return reference[:, :, None] * ratios[:, None]


class TokenBuilder(nn.Module):
    """Project backbone maps to one width, add coarser levels, flatten (Deformable DETR, 4.1)."""

    def __init__(
        self,
        *,
        in_channels: Sequence[int],
        num_levels: int,
        embed_dim: int,
        norm_groups: int,
        temperature: float,
        offset: float,
        strides: Sequence[int] = (8, 16, 32),
    ) -> None:
        """``in_channels`` and ``strides`` of the maps, fine to coarse; the first of the levels
        beyond them is a 3x3 stride-2 convolution of the last raw map, the next ones of the level
        before."""
        super().__init__()
        convolutions = [nn.Conv2d(c, embed_dim, 1) for c in in_channels]
        for level in range(len(in_channels), num_levels):
            channels = in_channels[-1] if level == len(in_channels) else embed_dim
            convolutions.append(nn.Conv2d(channels, embed_dim, 3, stride=2, padding=1))
        self.input_proj = nn.ModuleList(
            nn.Sequential(conv, nn.GroupNorm(norm_groups, embed_dim)) for conv in convolutions
        )
        self.level_embed = nn.Parameter(torch.empty(num_levels, embed_dim))
        extra = range(1, 1 + num_levels - len(strides))
        self.strides = (*strides, *(strides[-1] << level for level in extra))
        self.temperature = temperature
        self.offset = offset
        nn.init.normal_(self.level_embed)
        for conv in convolutions:
            nn.init.xavier_uniform_(conv.weight)
            assert conv.bias is not None
            nn.init.zeros_(conv.bias)

    def project(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """The neck alone: (B, C_l, H_l, W_l) maps to (B, embed_dim, H_l, W_l), all levels."""
        levels = [proj(x) for proj, x in zip(self.input_proj, maps, strict=False)]
        for proj in self.input_proj[len(maps) :]:
            levels.append(proj(maps[-1] if len(levels) == len(maps) else levels[-1]))
        return levels

    def forward(self, levels: Sequence[Tensor], images: ImageList) -> FeatureTokens:
        """Join the ``levels`` of :meth:`project` and attach positions, masks and centres."""
        device, dtype = levels[0].device, torch.promote_types(levels[0].dtype, torch.float32)
        # Image sizes live on the host: the masks are made there and nothing waits for a device.
        heights, widths = torch.tensor([(int(h), int(w)) for h, w in images.image_sizes]).T
        rows = torch.arange(images.tensor.shape[-2]) >= heights[:, None]
        columns = torch.arange(images.tensor.shape[-1]) >= widths[:, None]
        positions, masks, centers, ratios = [], [], [], []
        num_valid = torch.zeros_like(heights)
        for level, embed in zip(levels, self.level_embed, strict=True):
            height, width = level.shape[-2:]
            outside_y, outside_x = _resize_lines(rows, height), _resize_lines(columns, width)
            valid_y, valid_x = (~outside_y).sum(1), (~outside_x).sum(1)
            num_valid += valid_y * valid_x
            mask = outside_y[:, :, None] | outside_x[:, None, :]
            mask = mask.to(device, non_blocking=True)
            sine = sine_grid_embedding(~mask, embed.numel(), self.temperature, self.offset)
            positions.append(sine.flatten(1, 2) + embed)
            masks.append(mask.flatten(1))
            valid = torch.stack((valid_x, valid_y), -1).to(dtype)
            ratios.append(valid / torch.tensor((width, height)))
            centers.append(_centers(height, width, valid.to(device, non_blocking=True)))
        return FeatureTokens(
            features=torch.cat([x.flatten(2).transpose(1, 2) for x in levels], 1),
            position=torch.cat(positions, 1),
            padding_mask=torch.cat(masks, 1),
            centers=torch.cat(centers, 1),
            valid_ratios=torch.stack(ratios, 1).to(device, non_blocking=True),
            spatial_shapes=tuple((int(x.shape[-2]), int(x.shape[-1])) for x in levels),
            num_valid=tuple(num_valid.tolist()),
            image_sizes=tuple((int(h), int(w)) for h, w in images.image_sizes),
            strides=self.strides,
        )


def _resize_lines(lines: Tensor, size: int) -> Tensor:
    """Nearest-neighbour resampling of (B, padded) bool to (B, size), as upstream masks."""
    return F.interpolate(lines[:, None].float(), size=size)[:, 0].bool()


def _centers(height: int, width: int, valid: Tensor) -> Tensor:
    """Centres (B, H * W, 2) of a level's cells; ``valid`` (B, 2) is its un-padded (w, h)."""
    axes = [torch.arange(n, dtype=valid.dtype, device=valid.device) + 0.5 for n in (width, height)]
    return torch.stack(torch.meshgrid(*axes, indexing="xy"), -1).flatten(0, 1) / valid[:, None]
