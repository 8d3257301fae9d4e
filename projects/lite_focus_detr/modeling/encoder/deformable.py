"""The dense encoder of Deformable DETR: every token is a query in every layer."""

from collections.abc import Sequence
from typing import Any

from detectron2.config import CfgNode, configurable
from torch import nn

from ..attention import build_attention
from ..heads import ProposalHead
from ..tokens import FeatureTokens
from .base import ENCODER_REGISTRY, Encoder, EncoderOutput
from .layer import EncoderLayer, TokenQueries


@ENCODER_REGISTRY.register()
class DeformableEncoder(Encoder):
    """All tokens attend to all levels in every layer (Deformable DETR, 4.1)."""

    @configurable
    def __init__(self, *, layers: Sequence[EncoderLayer]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """Arguments of the constructor from ``MODEL.DETR``."""
        count = cfg.MODEL.DETR.ENCODER.NUM_LAYERS
        return {"layers": [EncoderLayer(**layer_arguments(cfg)) for _ in range(count)]}

    def forward(self, tokens: FeatureTokens, proposal_head: ProposalHead | None) -> EncoderOutput:
        """Encode ``tokens``; ``proposal_head`` is not used."""
        queries = TokenQueries(tokens.features, tokens.position, tokens.to_levels(tokens.centers))
        for layer in self.layers:
            queries = queries._replace(features=layer(queries, queries.features, tokens))
        return EncoderOutput(queries.features)


def layer_arguments(cfg: CfgNode) -> dict[str, Any]:
    """Arguments of any encoder layer from ``MODEL.DETR``."""
    detr, encoder = cfg.MODEL.DETR, cfg.MODEL.DETR.ENCODER
    return {
        "self_attn": build_attention(detr, encoder),
        "embed_dim": detr.EMBED_DIM,
        "ffn_dim": encoder.FFN_DIM,
        "dropout": encoder.DROPOUT,
        "recompute": detr.GRADIENT_CHECKPOINTING,
    }
