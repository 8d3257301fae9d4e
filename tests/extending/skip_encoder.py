"""An encoder that updates the finest level, three quarters of all tokens, in some layers only."""

from collections.abc import Sequence
from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY
from torch import Tensor, nn

from lite_focus_detr.modeling import DetectionTransformer
from lite_focus_detr.modeling.encoder import (
    ENCODER_REGISTRY,
    Encoder,
    EncoderLayer,
    EncoderOutput,
    TokenQueries,
)


@ENCODER_REGISTRY.register()
class SkipEncoder(Encoder):
    """Every ``period``-th layer, from the first on, updates all levels, the others the coarse."""

    @configurable
    def __init__(self, *, layers: Sequence[EncoderLayer], period: int, loss_weight: float) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.period = period
        self.loss_weight = loss_weight

    @staticmethod
    def add_config(cfg: CfgNode) -> None:
        cfg.MODEL.SKIP = skip = CfgNode()
        # Layers from one update of the finest level to the next.
        skip.PERIOD = 2
        # Weight of a loss that keeps the memory small.
        skip.LOSS_WEIGHT = 0.01

    @staticmethod
    def validate_config(cfg: CfgNode) -> None:
        if cfg.MODEL.SKIP.PERIOD < 1:
            raise ValueError(f"MODEL.SKIP.PERIOD is {cfg.MODEL.SKIP.PERIOD}; it must be at least 1")

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        return {
            "layers": [EncoderLayer(cfg) for _ in range(cfg.MODEL.DETR.ENCODER.NUM_LAYERS)],
            "period": cfg.MODEL.SKIP.PERIOD,
            "loss_weight": cfg.MODEL.SKIP.LOSS_WEIGHT,
        }

    def forward(self, tokens, proposal_head) -> EncoderOutput:
        height, width = tokens.spatial_shapes[0]
        queries = TokenQueries.all_of(tokens)
        for index, layer in enumerate(self.layers):
            start = 0 if index % self.period == 0 else height * width
            updated = layer(queries.part(start, None), queries.features, tokens)
            features = torch.cat((queries.features[:, :start], updated), 1)
            queries = queries._replace(features=features)
        return EncoderOutput(queries.features)

    def losses(self, output, tokens, targets, sampling) -> dict[str, Tensor]:
        return {"loss_memory": self.loss_weight * output.memory.square().mean()}


@META_ARCH_REGISTRY.register()
class SkipDETR(DetectionTransformer):
    """Detectors with it, of every family."""

    encoder_name = "SkipEncoder"
