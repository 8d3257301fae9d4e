"""The encoder layer that all encoders share."""

from typing import Any

from detectron2.config import CfgNode, configurable
from torch import Tensor, nn

from ..attention import SampledAttention, Value, build_attention
from ..structures import FeatureTokens, TokenQueries
from ..transformer_layer import TransformerLayer


class EncoderLayer(TransformerLayer):
    """Deformable attention and feed-forward of any tokens, each with residual and post-norm."""

    @configurable
    def __init__(self, *, self_attn: SampledAttention, ffn_dim: int, dropout: float) -> None:
        """
        Args:
            self_attn: attention to the tokens.
            ffn_dim: see :class:`TransformerLayer`.
            dropout: likewise.
        """
        embed_dim = self_attn.config.embed_dim
        super().__init__(embed_dim=embed_dim, ffn_dim=ffn_dim, dropout=dropout)
        self.self_attn = self_attn
        self.norm1 = nn.LayerNorm(embed_dim)
        self.norm2 = nn.LayerNorm(embed_dim)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """Arguments of the constructor from ``MODEL.DETR.ENCODER``."""
        detr, encoder = cfg.MODEL.DETR, cfg.MODEL.DETR.ENCODER
        return {
            "self_attn": build_attention(detr, encoder),
            "ffn_dim": encoder.FFN_DIM,
            "dropout": encoder.DROPOUT,
        }

    def forward(self, queries: TokenQueries, value: Value, tokens: FeatureTokens) -> Tensor:
        """Updated features (B, N, C) of N tokens, the ``queries``, that attend to ``value``, whose
        padding and levels are those of ``tokens``."""
        features = self.attend(queries, value, tokens)
        return self.norm2(features + self.feed_forward(features))

    def attend(self, queries: TokenQueries, value: Value, tokens: FeatureTokens) -> Tensor:
        """Features (B, N, C) after the attention only; see :meth:`forward`."""
        attended = self.self_attn(
            queries.features + queries.position,
            queries.reference_points,
            value,
            tokens.spatial_shapes,
            tokens.value_mask,
        )
        return self.norm1(queries.features + self.dropout(attended))
