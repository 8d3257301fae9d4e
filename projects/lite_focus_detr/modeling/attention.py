"""Attention modules over multi-scale tokens; they differ only in where the weights come from."""

import math

import torch
from detectron2.config import CfgNode
from torch import Tensor, nn

from .. import ops
from .tokens import FeatureTokens


class DeformableAttention(nn.Module):
    """Multi-scale deformable attention (Deformable DETR, eq. 3)."""

    def __init__(self, *, embed_dim: int, num_heads: int, num_levels: int, num_points: int) -> None:
        """``num_points`` samples per head and level."""
        super().__init__()
        self.num_heads = num_heads
        self.num_levels = num_levels
        self.num_points = num_points
        samples = num_heads * num_levels * num_points
        self.sampling_offsets = nn.Linear(embed_dim, samples * 2)
        self.attention_weights = nn.Linear(embed_dim, samples)
        self.value_proj = nn.Linear(embed_dim, embed_dim)
        self.output_proj = nn.Linear(embed_dim, embed_dim)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Start from rings of points around the reference, one direction per head, uniform."""
        nn.init.zeros_(self.sampling_offsets.weight)
        angle = torch.arange(self.num_heads) * (2.0 * math.pi / self.num_heads)
        direction = torch.stack((angle.cos(), angle.sin()), -1)
        direction = direction / direction.abs().amax(-1, keepdim=True)
        radius = torch.arange(1, self.num_points + 1)
        ring = direction[:, None, None] * radius[:, None]  # (M, 1, P, 2)
        with torch.no_grad():
            self.sampling_offsets.bias.copy_(ring.expand(-1, self.num_levels, -1, -1).flatten())
        nn.init.zeros_(self.attention_weights.weight)
        nn.init.zeros_(self.attention_weights.bias)
        for projection in (self.value_proj, self.output_proj):
            nn.init.xavier_uniform_(projection.weight)
            nn.init.zeros_(projection.bias)

    def forward(
        self, query: Tensor, reference_points: Tensor, value: Tensor, tokens: FeatureTokens
    ) -> Tensor:
        """Attend from each query to samples around its reference on every level.

        Args:
            query: (B, Q, C), position included.
            reference_points: (B, Q, L, 2) points or (B, Q, L, 4) boxes, relative to each level's
                padded map.
            value: (B, S, C) tokens to sample.
            tokens: says which of them are padded, and so have the value zero, and the levels.

        Returns:
            (B, Q, C).
        """
        batch, num_queries, _ = query.shape
        heads = (batch, num_queries, self.num_heads)
        offsets = self.sampling_offsets(query).view(*heads, self.num_levels, self.num_points, 2)
        logits = self.attention_weights(query).view(*heads, -1)
        sampled = ops.fused_deformable_attention(
            self.project_value(value, tokens.padding_mask),
            tokens.spatial_shapes,
            reference_points,
            offsets,
            logits,
        )
        return self.output_proj(sampled)

    def project_value(self, value: Tensor, padding_mask: Tensor) -> Tensor:
        """Values per head, (B, S, C) to (B, S, M, C/M), zero where padded."""
        projected = self.value_proj(value).masked_fill(padding_mask[..., None], 0.0)
        return projected.unflatten(-1, (self.num_heads, -1))


ATTENTIONS: dict[str, type[DeformableAttention]] = {"deformable": DeformableAttention}


def build_attention(detr: CfgNode, part: CfgNode) -> DeformableAttention:
    """The attention of a ``part`` of ``MODEL.DETR``, its ``ENCODER`` or ``DECODER``."""
    return ATTENTIONS[part.ATTENTION](
        embed_dim=detr.EMBED_DIM,
        num_heads=detr.NUM_HEADS,
        num_levels=detr.NUM_LEVELS,
        num_points=part.NUM_POINTS,
    )
