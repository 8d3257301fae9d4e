"""Attention modules over multi-scale tokens; they differ only in where the weights come from."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from detectron2.config import CfgNode
from torch import Tensor, nn

from .. import ops
from ..ops.concat_linear import concat_linear
from .tokens import FeatureTokens


class Projected(NamedTuple):
    """Tokens as the heads sample them, zero where padded."""

    value: Tensor  #: (B, S, M, D)
    key: Tensor | None = None  #: (B, S, M, D) if the attention compares keys of their own


class SamplePoints(NamedTuple):
    """Where the queries sample, in the order of the operators' arguments."""

    spatial_shapes: tuple[tuple[int, int], ...]  #: (height, width) of each level
    reference_points: Tensor  #: (B, Q, L, 2 or 4)
    offsets: Tensor  #: (B, Q, M, L or 1, P, 2)


class SampledAttention(nn.Module):
    """Attention to a few samples around a reference on every level; subclasses weigh them."""

    def __init__(
        self,
        *,
        embed_dim: int,
        num_heads: int,
        num_levels: int,
        num_points: int,
        shared_offsets: bool = False,
    ) -> None:
        """``num_points`` samples per head and level, ``shared_offsets``: alike on all levels."""
        super().__init__()
        self.num_heads = num_heads
        self.num_levels = num_levels
        self.num_points = num_points
        points = num_heads * (1 if shared_offsets else num_levels) * num_points
        self.sampling_offsets = nn.Linear(embed_dim, points * 2)
        self.value_proj = _projection(embed_dim)
        self.output_proj = _projection(embed_dim)
        # Start from rings around the reference, one direction per head.
        nn.init.zeros_(self.sampling_offsets.weight)
        angle = torch.arange(num_heads) * (2.0 * math.pi / num_heads)
        direction = torch.stack((angle.cos(), angle.sin()), -1)
        direction = direction / direction.abs().amax(-1, keepdim=True)
        rings = direction[:, None, None] * torch.arange(1, num_points + 1)[:, None]  # (M, 1, P, 2)
        bias = self.sampling_offsets.bias.detach().view(num_heads, -1, num_points, 2)
        bias.copy_(rings.expand_as(bias))

    def forward(
        self, query: Tensor, reference_points: Tensor, value: Tensor, tokens: FeatureTokens
    ) -> Tensor:
        """Attend from queries (B, Q, C), position included, to samples of ``value`` (B, S, C).

        They lie around ``reference_points``: (B, Q, L, 2) points or (B, Q, L, 4) boxes, relative to
        each level's padded map. ``tokens`` says which are padded, and so have the value zero, and
        the levels. The result is (B, Q, C).
        """
        return self.attend(query, reference_points, self.project((value,), tokens), tokens)

    def attend(
        self, query: Tensor, reference_points: Tensor, projected: Projected, tokens: FeatureTokens
    ) -> Tensor:
        """:meth:`forward` to tokens that are projected already."""
        points = self.points(query, reference_points, tokens)
        return self.output_proj(self.sample(query, projected, points))

    def points(
        self, query: Tensor, reference_points: Tensor, tokens: FeatureTokens
    ) -> SamplePoints:
        """Where each query samples."""
        shape = (self.num_heads, -1, self.num_points, 2)
        offsets = self.sampling_offsets(query).unflatten(-1, shape)
        return SamplePoints(tokens.spatial_shapes, reference_points, offsets)

    def project(self, parts: Sequence[Tensor], tokens: FeatureTokens) -> Projected:
        """Project the tokens to sample, given as consecutive parts (B, S_i, C)."""
        return Projected(self.split_heads(self.value_proj, parts, tokens))

    def sample(self, query: Tensor, projected: Projected, points: SamplePoints) -> Tensor:
        """Weighted sums (B, Q, C) of the samples, before the output projection."""
        raise NotImplementedError

    def split_heads(
        self, projection: nn.Linear, parts: Sequence[Tensor], tokens: FeatureTokens
    ) -> Tensor:
        """Projected tokens (B, S, M, D), zero where padded."""
        projected = projection(parts[0]) if len(parts) == 1 else concat_linear(projection, parts)
        # In place: the gradient of a linear layer does not need its output.
        projected.masked_fill_(tokens.padding_mask[..., None], 0.0)
        return projected.unflatten(-1, (self.num_heads, -1))


class DeformableAttention(SampledAttention):
    """Weights are a linear function of the query (Deformable DETR, eq. 3)."""

    def __init__(self, *, embed_dim: int, **sampling: Any) -> None:
        super().__init__(embed_dim=embed_dim, **sampling)
        samples = self.num_heads * self.num_levels * self.num_points
        self.attention_weights = nn.Linear(embed_dim, samples)
        nn.init.zeros_(self.attention_weights.weight)
        nn.init.zeros_(self.attention_weights.bias)

    def sample(self, query: Tensor, projected: Projected, points: SamplePoints) -> Tensor:
        """See :meth:`SampledAttention.sample`."""
        logits = self.attention_weights(query).unflatten(-1, (self.num_heads, -1))
        return ops.fused_deformable_attention(projected.value, *points, logits)


class KeyAwareAttention(SampledAttention):
    """Weights compare the query with the sampled keys (Lite DETR, 3.4).

    Padded tokens and points outside of their map have the logit 0 and the value 0.
    """

    def __init__(self, *, embed_dim: int, projected_key: bool = False, **sampling: Any) -> None:
        """``projected_key``: the keys have a projection of their own, as in the paper; by default
        the value is the key, as in the released models. The rest see :class:`SampledAttention`."""
        super().__init__(embed_dim=embed_dim, **sampling)
        self.query_proj = _projection(embed_dim)
        self.key_proj = _projection(embed_dim) if projected_key else None

    def project(self, parts: Sequence[Tensor], tokens: FeatureTokens) -> Projected:
        """Project values and keys; see :meth:`SampledAttention.project`."""
        value = self.split_heads(self.value_proj, parts, tokens)
        if self.key_proj is None:
            return Projected(value)
        return Projected(value, self.split_heads(self.key_proj, parts, tokens))

    def sample(self, query: Tensor, projected: Projected, points: SamplePoints) -> Tensor:
        """See :meth:`SampledAttention.sample`."""
        query = self.query_proj(query).unflatten(-1, (self.num_heads, -1))
        value, key = projected
        return ops.fused_key_aware_deformable_attention(query, key, value, *points)


def _projection(embed_dim: int) -> nn.Linear:
    linear = nn.Linear(embed_dim, embed_dim)
    nn.init.xavier_uniform_(linear.weight)
    nn.init.zeros_(linear.bias)
    return linear


def build_attention(detr: CfgNode, part: CfgNode) -> SampledAttention:
    """The attention of a ``part`` of ``MODEL.DETR``, its ``ENCODER`` or ``DECODER``."""
    arguments = {
        "embed_dim": detr.EMBED_DIM,
        "num_heads": detr.NUM_HEADS,
        "num_levels": detr.NUM_LEVELS,
        "num_points": part.NUM_POINTS,
        "shared_offsets": part.SHARED_OFFSETS,
    }
    if part.ATTENTION == "key_aware":
        return KeyAwareAttention(projected_key=part.PROJECTED_KEY, **arguments)
    return DeformableAttention(**arguments)
