"""The encoder layer that all encoders share."""

from typing import Any, NamedTuple

from torch import Tensor, nn

from ..attention import Projected, SampledAttention
from ..layer import TransformerLayer
from ..tokens import FeatureTokens


class TokenQueries(NamedTuple):
    """Tokens to update, N per image."""

    features: Tensor  #: (B, N, C)
    position: Tensor  #: (B, N, C), added for the attention only
    reference_points: Tensor  #: (B, N, L, 2) relative to each level's padded map


class TokenUpdate(TransformerLayer):
    """Deformable attention and feed-forward, each with residual and post-norm."""

    def __init__(self, *, self_attn: SampledAttention, embed_dim: int, **feed_forward: Any) -> None:
        """``self_attn`` over the value tokens; the rest see :class:`TransformerLayer`."""
        super().__init__(embed_dim=embed_dim, **feed_forward)
        self.self_attn = self_attn
        self.norm1 = nn.LayerNorm(embed_dim)
        self.norm2 = nn.LayerNorm(embed_dim)

    def update(self, queries: TokenQueries, projected: Projected, tokens: FeatureTokens) -> Tensor:
        """Features (B, N, C) after attention to the ``projected`` tokens and feed-forward."""
        attended = self.attend(queries, projected, tokens)
        return self.norm2(attended + self.feed_forward(attended))

    def attend(self, queries: TokenQueries, projected: Projected, tokens: FeatureTokens) -> Tensor:
        """Features (B, N, C) after the attention only."""
        features, position, references = queries
        attended = self.self_attn.attend(features + position, references, projected, tokens)
        return self.norm1(features + self.dropout(attended))


class EncoderLayer(TokenUpdate):
    """The update of any tokens by any others."""

    def forward(self, queries: TokenQueries, source: Tensor, tokens: FeatureTokens) -> Tensor:
        """Features (B, N, C) of the queries after attention to ``source`` (B, S, C), whose padding
        and levels ``tokens`` describe."""
        return self.update(queries, self.self_attn.project((source,), tokens), tokens)
