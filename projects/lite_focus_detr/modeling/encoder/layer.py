"""The encoder layer that all encoders share."""

from typing import Any

from torch import Tensor, nn

from ..attention import DeformableAttention
from ..layer import TransformerLayer
from ..tokens import FeatureTokens


class EncoderLayer(TransformerLayer):
    """Deformable attention and feed-forward, each with residual and post-norm."""

    def __init__(
        self, *, self_attn: DeformableAttention, embed_dim: int, **feed_forward: Any
    ) -> None:
        """``self_attn`` over the value tokens; the rest see :class:`TransformerLayer`."""
        super().__init__(embed_dim=embed_dim, **feed_forward)
        self.self_attn = self_attn
        self.norm1 = nn.LayerNorm(embed_dim)
        self.norm2 = nn.LayerNorm(embed_dim)

    def forward(
        self,
        query: Tensor,
        position: Tensor,
        reference_points: Tensor,
        value: Tensor,
        tokens: FeatureTokens,
    ) -> Tensor:
        """Update the query tokens.

        Args:
            query: (B, Q, C) tokens to update.
            position: (B, Q, C), added to the query of the attention only.
            reference_points: (B, Q, L, 2) relative to each level's padded map.
            value: (B, S, C) tokens that are sampled; need not be those of the query.
            tokens: padding and levels of ``value``.

        Returns:
            (B, Q, C).
        """
        attended = self.self_attn(query + position, reference_points, value, tokens)
        query = self.norm1(query + self.dropout(attended))
        return self.norm2(query + self.feed_forward(query))
