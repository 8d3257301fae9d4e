"""The neck: backbone maps to feature levels of one width."""

from collections.abc import Sequence
from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from torch import Tensor, nn

from .transformer_layer import xavier_matrices


class Neck(nn.Module):
    """Project backbone maps to one width and add coarser levels (Deformable DETR, 4.1)."""

    @configurable
    def __init__(
        self, *, input_shape: Sequence[ShapeSpec], num_levels: int, embed_dim: int, norm_groups: int
    ) -> None:
        """
        Args:
            input_shape: channels and stride of the backbone maps, fine to coarse.
            num_levels: feature levels L. The first beyond the maps is a 3x3 stride-2 convolution of
                the last raw map, the next ones of the level before.
            embed_dim: channels C of all levels.
            norm_groups: of the GroupNorm after each projection; divides ``embed_dim``.
        """
        super().__init__()
        convolutions = [nn.Conv2d(shape.channels, embed_dim, 1) for shape in input_shape]
        strides, channels = [shape.stride for shape in input_shape], input_shape[-1].channels
        while len(convolutions) < num_levels:
            convolutions.append(nn.Conv2d(channels, embed_dim, 3, stride=2, padding=1))
            strides, channels = [*strides, strides[-1] * 2], embed_dim
        self.strides = tuple(strides)
        self.input_proj = nn.ModuleList(
            nn.Sequential(conv, nn.GroupNorm(norm_groups, embed_dim)) for conv in convolutions
        )
        self.level_embed = nn.Parameter(torch.empty(num_levels, embed_dim))
        nn.init.normal_(self.level_embed)
        xavier_matrices(self.input_proj)
        for conv in convolutions:
            assert conv.bias is not None
            nn.init.zeros_(conv.bias)

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: Sequence[ShapeSpec]) -> dict[str, Any]:
        """Arguments of the constructor from ``MODEL.DETR``, for maps of a shape, fine to coarse."""
        detr = cfg.MODEL.DETR
        return {
            "input_shape": input_shape,
            "num_levels": detr.NUM_LEVELS,
            "embed_dim": detr.EMBED_DIM,
            "norm_groups": detr.NORM_GROUPS,
        }

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Maps (B, C_l, H_l, W_l) to all levels, (B, C, H_l, W_l)."""
        levels = [proj(x) for proj, x in zip(self.input_proj, maps, strict=False)]
        for proj in self.input_proj[len(maps) :]:
            levels.append(proj(maps[-1] if len(levels) == len(maps) else levels[-1]))
        return levels
