"""Attention modules over multi-scale tokens; they differ only in where the weights come from."""

import dataclasses
import math
from collections.abc import Sequence

import torch
from detectron2.config import CfgNode
from torch import Tensor, nn

from .. import ops
from ..ops.concat_linear import concat_linear
from .box_ops import to_float32
from .structures import ProjectedTokens, SamplingPoints, SpatialShapes

#: Spatial shapes, reference points (B, Q, L, 2 or 4) and offsets (B, Q, M, L or 1, P, 2).
Points = tuple[SpatialShapes, Tensor, Tensor]
Value = Tensor | ProjectedTokens  #: tokens (B, S, C) to sample, projected or not
#: Tokens (B, S, C), or consecutive parts (B, S_i, C) of them, which are not joined.
Parts = Tensor | Sequence[Tensor]


@dataclasses.dataclass(frozen=True)
class AttentionConfig:
    """Sizes and kind of an attention."""

    embed_dim: int  #: channels C of queries, values and results; a multiple of ``num_heads``
    num_heads: int  #: M
    num_levels: int  #: L
    num_points: int  #: samples P of a head on a level
    shared_offsets: bool = False  #: the samples of a head have the same offsets on all levels
    #: Key-aware only: keys have their own projection (paper), else they are the values (release).
    projected_key: bool = False
    mask_outside: bool = False  #: key-aware only: points outside of a map have no weight


class SampledAttention(nn.Module):
    """Attention to a few samples around a reference on every level; subclasses weigh them."""

    def __init__(self, config: AttentionConfig) -> None:
        """
        Args:
            config: sizes.
        """
        super().__init__()
        self.config = config
        heads, points = config.num_heads, config.num_points
        num_offsets = heads * (1 if config.shared_offsets else config.num_levels) * points
        self.sampling_offsets = nn.Linear(config.embed_dim, num_offsets * 2)
        self.value_proj = _projection(config.embed_dim)
        self.output_proj = _projection(config.embed_dim)
        # Start from rings around the reference, one direction per head.
        nn.init.zeros_(self.sampling_offsets.weight)
        angle = torch.arange(heads) * (2.0 * math.pi / heads)
        direction = torch.stack((angle.cos(), angle.sin()), -1)
        direction = direction / direction.abs().amax(-1, keepdim=True)
        rings = direction[:, None, None] * torch.arange(1, points + 1)[:, None]  # (M, 1, P, 2)
        bias = self.sampling_offsets.bias.detach().view(heads, -1, points, 2)
        bias.copy_(rings.expand_as(bias))

    def forward(
        self,
        query: Tensor,
        reference_points: Tensor,
        value: Value,
        spatial_shapes: SpatialShapes,
        padding_mask: Tensor | None = None,
    ) -> Tensor:
        """Attend from each query to samples around its reference: (B, Q, C).

        Args:
            query: (B, Q, C), position included.
            reference_points: (B, Q, L, 2 or 4), relative to each level's padded map.
            value: (B, S, C) tokens to sample, or what :meth:`project` made of them.
            spatial_shapes: (height, width) of each level.
            padding_mask: (B, S) bool, True for tokens of value zero; those projected have had it.
        """
        tokens = self.project(value, padding_mask) if isinstance(value, Tensor) else value
        points = (spatial_shapes, reference_points, self.offsets(query))
        return self.output_proj(self.attend(query, tokens, points))

    @torch.no_grad()
    def sampling(
        self,
        query: Tensor,
        reference_points: Tensor,
        value: Value,
        spatial_shapes: SpatialShapes,
        padding_mask: Tensor | None = None,
    ) -> SamplingPoints:
        """Where :meth:`forward` samples with the same arguments, and how it weighs the samples."""
        tokens = self.project(value, padding_mask) if isinstance(value, Tensor) else value
        points = (spatial_shapes, reference_points, self.offsets(query))
        locations = ops.reference.sampling_locations(*points)
        weights = self.weights(query, tokens, points)
        return SamplingPoints(locations, weights.view(locations.shape[:-1]))

    def project(self, value: Parts, padding_mask: Tensor | None = None) -> ProjectedTokens:
        """Project the tokens to sample, once for several calls of :meth:`forward`."""
        return ProjectedTokens(self.split_heads(self.value_proj, value, padding_mask))

    def attend(self, query: Tensor, tokens: ProjectedTokens, points: Points) -> Tensor:
        """Weighted sums (B, Q, C) of the samples, before the output projection."""
        raise NotImplementedError

    def weights(self, query: Tensor, tokens: ProjectedTokens, points: Points) -> Tensor:
        """Weights (B, Q, M, L * P) of the samples."""
        raise NotImplementedError

    def offsets(self, query: Tensor) -> Tensor:
        """Offsets (B, Q, M, L or 1, P, 2) of the samples of queries (B, Q, C)."""
        shape = (self.config.num_heads, -1, self.config.num_points, 2)
        return self.sampling_offsets(query).unflatten(-1, shape)

    def split_heads(self, proj: nn.Module, value: Parts, mask: Tensor | None = None) -> Tensor:
        """Project tokens (B, S, C) to channels of M heads (B, S, M, …), zero where masked."""
        if isinstance(value, Tensor):
            shape = value.shape[:2]
            # As a matrix, see TransformerLayer.two_layers.
            projected = proj(value.flatten(0, 1))
        else:
            projected = concat_linear(proj, value)
            shape = projected.shape[:2]
        if mask is not None:
            # In place: the gradient of a linear layer does not need its output.
            projected.masked_fill_(mask.reshape(*projected.shape[:-1], 1), 0.0)
        return projected.view(*shape, self.config.num_heads, -1)


class DeformableAttention(SampledAttention):
    """Weights are a linear function of the query (Deformable DETR, eq. 3)."""

    def __init__(self, config: AttentionConfig) -> None:
        """
        Args:
            config: sizes.
        """
        super().__init__(config)
        num_samples = config.num_heads * config.num_levels * config.num_points
        self.attention_weights = nn.Linear(config.embed_dim, num_samples)
        for parameter in self.attention_weights.parameters():
            nn.init.zeros_(parameter)

    def attend(self, query: Tensor, tokens: ProjectedTokens, points: Points) -> Tensor:
        """See :meth:`SampledAttention.attend`."""
        logits = self.split_heads(self.attention_weights, query)
        return ops.fused_deformable_attention(tokens.value, *points, logits)

    def weights(self, query: Tensor, tokens: ProjectedTokens, points: Points) -> Tensor:
        """See :meth:`SampledAttention.weights`."""
        return to_float32(self.split_heads(self.attention_weights, query)).softmax(-1)


class KeyAwareAttention(SampledAttention):
    """Weights compare the query with the sampled keys (Lite DETR, 3.4); padded tokens and, unless
    masked, points outside of their map have the logit 0 and the value 0."""

    def __init__(self, config: AttentionConfig) -> None:
        """
        Args:
            config: sizes and kind.
        """
        super().__init__(config)
        self.query_proj = _projection(config.embed_dim)
        self.key_proj = _projection(config.embed_dim) if config.projected_key else None

    def attend(self, query: Tensor, tokens: ProjectedTokens, points: Points) -> Tensor:
        """See :meth:`SampledAttention.attend`."""
        heads = self.split_heads(self.query_proj, query)
        return ops.fused_key_aware_deformable_attention(
            heads, tokens.key, tokens.value, *points, mask_outside=self.config.mask_outside
        )

    def weights(self, query: Tensor, tokens: ProjectedTokens, points: Points) -> Tensor:
        """See :meth:`SampledAttention.weights`."""
        heads = self.split_heads(self.query_proj, query)
        keys = tokens.value if tokens.key is None else tokens.key
        return ops.reference.fused_key_aware_weights(
            heads, keys, *points, mask_outside=self.config.mask_outside
        )

    def project(self, value: Parts, padding_mask: Tensor | None = None) -> ProjectedTokens:
        """Project values and keys; see :meth:`SampledAttention.project`."""
        projected = super().project(value, padding_mask)
        if self.key_proj is None:
            return projected
        return projected._replace(key=self.split_heads(self.key_proj, value, padding_mask))


def _projection(embed_dim: int) -> nn.Linear:
    linear = nn.Linear(embed_dim, embed_dim)
    nn.init.xavier_uniform_(linear.weight)
    nn.init.zeros_(linear.bias)
    return linear


def build_attention(detr: CfgNode, part: CfgNode) -> SampledAttention:
    """The attention of a ``part`` of ``MODEL.DETR``, its ``ENCODER`` or ``DECODER``."""
    config = AttentionConfig(
        embed_dim=detr.EMBED_DIM,
        num_heads=detr.NUM_HEADS,
        num_levels=detr.NUM_LEVELS,
        num_points=part.NUM_POINTS,
        shared_offsets=part.SHARED_OFFSETS,
        projected_key=part.PROJECTED_KEY,
        mask_outside=detr.KEY_AWARE.MASK_OUTSIDE,
    )
    return (KeyAwareAttention if part.ATTENTION == "key_aware" else DeformableAttention)(config)
