"""The interleaved encoder of Lite DETR: many updates of few tokens, few updates of many."""

from collections.abc import Sequence
from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from torch import Tensor, nn

from ..heads import ProposalHead
from ..tokens import FeatureTokens
from .base import ENCODER_REGISTRY, Encoder, EncoderOutput
from .deformable import layer_arguments
from .layer import TokenQueries, TokenUpdate


class HighLevelLayer(TokenUpdate):
    """Update the high levels; the low ones are sampled but stay as they are."""

    def forward(
        self, low: TokenQueries, high: TokenQueries, tokens: FeatureTokens
    ) -> tuple[Tensor, Tensor]:
        """Features (B, N, C) of the low and of the high levels after the layer."""
        projected = self.self_attn.project((low.features, high.features), tokens)
        return low.features, self.update(high, projected, tokens)


class AllLevelsLayer(HighLevelLayer):
    """Update all levels; the low ones have a smaller feed-forward part with its own norm."""

    def __init__(
        self, *, embed_dim: int, low_ffn_dim: int, low_sees_update: bool, **layer: Any
    ) -> None:
        """``low_ffn_dim`` hidden channels; ``low_sees_update``: the low levels sample the high
        levels after their update, not before. The rest see :class:`TokenUpdate`."""
        super().__init__(embed_dim=embed_dim, **layer)
        self.linear12 = nn.Linear(embed_dim, low_ffn_dim)
        self.linear22 = nn.Linear(low_ffn_dim, embed_dim)
        self.norm22 = nn.LayerNorm(embed_dim)
        self.low_sees_update = low_sees_update
        for linear in (self.linear12, self.linear22):
            nn.init.xavier_uniform_(linear.weight)

    def forward(
        self, low: TokenQueries, high: TokenQueries, tokens: FeatureTokens
    ) -> tuple[Tensor, Tensor]:
        """See :meth:`HighLevelLayer.forward`."""
        projected = self.self_attn.project((low.features, high.features), tokens)
        updated = self.update(high, projected, tokens)
        if self.low_sees_update:
            projected = self.self_attn.project((low.features, updated), tokens)
        attended = self.attend(low, projected, tokens)
        hidden = self.dropout(self.linear12(attended).relu_())
        return self.norm22(attended + self.dropout(self.linear22(hidden))), updated


@ENCODER_REGISTRY.register()
class LiteEncoder(Encoder):
    """Blocks that update the high levels in every layer and all levels in the last (3.2-3.3).

    Low and high levels are kept apart until the end, so that the low tokens, three quarters of
    all, are never copied.
    """

    @configurable
    def __init__(self, *, layers: Sequence[TokenUpdate], num_high_levels: int) -> None:
        """``layers`` in order; ``num_high_levels`` are the coarsest."""
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.num_high_levels = num_high_levels

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """Arguments of the constructor from ``MODEL.DETR`` and ``MODEL.LITE``."""
        lite, num_layers = cfg.MODEL.LITE, cfg.MODEL.DETR.ENCODER.NUM_LAYERS
        has_low = lite.NUM_HIGH_LEVELS < cfg.MODEL.DETR.NUM_LEVELS
        low = {"low_ffn_dim": lite.LOW_FFN_DIM, "low_sees_update": lite.LOW_UPDATE == "after"}
        layers = []
        for index in range(1, num_layers + 1):
            ends_block = index % (num_layers // lite.NUM_BLOCKS) == 0
            kind, more = (AllLevelsLayer, low) if has_low and ends_block else (HighLevelLayer, {})
            layers.append(kind(**layer_arguments(cfg), **more))
        return {"layers": layers, "num_high_levels": lite.NUM_HIGH_LEVELS}

    def forward(self, tokens: FeatureTokens, proposal_head: ProposalHead | None) -> EncoderOutput:
        """Encode ``tokens``; ``proposal_head`` is not used."""
        low_shapes = tokens.spatial_shapes[: -self.num_high_levels]
        num_low = sum(height * width for height, width in low_shapes)
        sequences = (tokens.features, tokens.position, tokens.to_levels(tokens.centers))
        low = TokenQueries(*(x[:, :num_low] for x in sequences))
        high = TokenQueries(*(x[:, num_low:] for x in sequences))
        for layer in self.layers:
            low_features, high_features = layer(low, high, tokens)
            low, high = low._replace(features=low_features), high._replace(features=high_features)
        return EncoderOutput(torch.cat((low.features, high.features), 1))
