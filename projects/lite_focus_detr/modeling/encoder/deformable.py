"""The dense encoder of Deformable DETR: every token is a query in every layer."""

from collections.abc import Sequence
from typing import Any

from detectron2.config import CfgNode, configurable
from torch import nn

from ..proposals import TokenHead
from ..structures import EncoderOutput, FeatureTokens, TokenQueries
from ..transformer_layer import run_layer
from .base import ENCODER_REGISTRY, Encoder
from .layer import EncoderLayer


@ENCODER_REGISTRY.register()
class DeformableEncoder(Encoder):
    """All tokens attend to all levels in every layer (Deformable DETR, 4.1)."""

    @configurable
    def __init__(self, *, layers: Sequence[EncoderLayer], gradient_checkpointing: bool) -> None:
        """
        Args:
            layers: in order.
            gradient_checkpointing: see :func:`run_layer`.
        """
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.gradient_checkpointing = gradient_checkpointing

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """Arguments of the constructor from ``MODEL.DETR``."""
        detr = cfg.MODEL.DETR
        layers = [EncoderLayer(cfg) for _ in range(detr.ENCODER.NUM_LAYERS)]
        return {"layers": layers, "gradient_checkpointing": detr.GRADIENT_CHECKPOINTING}

    def forward(self, tokens: FeatureTokens, proposal_head: TokenHead | None) -> EncoderOutput:
        """Encode ``tokens``; ``proposal_head`` is not used."""
        queries = TokenQueries.all_of(tokens)
        for layer in self.layers:
            arguments = (queries, queries.features, tokens)
            features = run_layer(self.gradient_checkpointing, layer, *arguments)
            queries = queries._replace(features=features)
        return EncoderOutput(queries.features)
