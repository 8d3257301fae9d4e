"""The interleaved encoder of Lite DETR: many updates of few tokens, few updates of many."""

import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import torch
from detectron2.config import CfgNode, configurable
from torch import Tensor, nn

from ..attention import SampledAttention, Value
from ..proposals import TokenHead
from ..structures import EncoderOutput, FeatureTokens, TokenQueries
from ..transformer_layer import run_layer
from .base import ENCODER_REGISTRY, Encoder
from .layer import EncoderLayer


class AllLevelsLayer(EncoderLayer):
    """A layer that also updates low levels, with a smaller feed-forward part and its own norm."""

    feed_forward_layers = (*EncoderLayer.feed_forward_layers, ("linear12", "linear22"))

    @configurable
    def __init__(
        self, *, self_attn: SampledAttention, ffn_dim: int, low_ffn_dim: int, dropout: float
    ) -> None:
        """
        Args:
            self_attn: attention to the tokens, of both kinds of levels.
            ffn_dim: hidden channels of the high levels' feed-forward part.
            low_ffn_dim: hidden channels of the low levels'.
            dropout: probability, on every residual branch and the hidden channels.
        """
        super().__init__(self_attn=self_attn, ffn_dim=ffn_dim, dropout=dropout)
        embed_dim = self_attn.config.embed_dim
        # Names of the released weights.
        self.linear12 = nn.Linear(embed_dim, low_ffn_dim)
        self.linear22 = nn.Linear(low_ffn_dim, embed_dim)
        self.norm22 = nn.LayerNorm(embed_dim)
        for linear in (self.linear12, self.linear22):
            nn.init.xavier_uniform_(linear.weight)

    def update_low(self, queries: TokenQueries, value: Value, tokens: FeatureTokens) -> Tensor:
        """Update tokens of the low levels; see :meth:`EncoderLayer.forward`."""
        features = self.attend(queries, value, tokens)
        return self.norm22(features + self.two_layers(features, self.linear12, self.linear22))


@dataclasses.dataclass(frozen=True)
class LiteSettings:
    """How the layers treat high and low levels."""

    num_high_levels: int  #: the coarsest levels, from 1 to all L
    #: Low levels sample high ones as a layer finds (joint) or leaves them (after).
    low_update: Literal["joint", "after"]
    gradient_checkpointing: bool  #: see :func:`run_layer`


@ENCODER_REGISTRY.register()
class LiteEncoder(Encoder):
    """Blocks that update the high levels in every layer and all levels in the last (3.2-3.3); low
    levels, three quarters of all tokens, are kept apart until the end and so never copied."""

    choices: ClassVar = {"MODEL.LITE.LOW_UPDATE": ("joint", "after")}
    minimum_values: ClassVar = {"MODEL.LITE.LOW_FFN_DIM": 1}

    @configurable
    def __init__(self, *, layers: Sequence[EncoderLayer], settings: LiteSettings) -> None:
        """
        Args:
            layers: in order; an :class:`AllLevelsLayer` updates the low levels as well.
            settings: how.
        """
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.settings = settings

    @staticmethod
    def add_config(cfg: CfgNode) -> None:
        """Add ``MODEL.LITE``."""
        cfg.MODEL.LITE = lite = CfgNode()
        # Blocks of ENCODER.NUM_LAYERS / NUM_BLOCKS layers, all of which update the high levels, the
        # last one also the low ones: B of "(A+1)xB" in the paper, where A is the layers of a block.
        lite.NUM_BLOCKS = 3
        # The coarsest levels, which are cheap: H3L1 has 3 of 4.
        lite.NUM_HIGH_LEVELS = 3
        # Hidden channels of the low levels' feed-forward; the high levels have ENCODER.FFN_DIM.
        lite.LOW_FFN_DIM = 256
        # The low levels sample the high levels as they were before the block's last layer (joint,
        # the released models) or as that layer left them (after, the paper). Weights fit both.
        lite.LOW_UPDATE = "joint"

    @staticmethod
    def validate_config(cfg: CfgNode) -> None:
        """See :meth:`Encoder.validate_config`."""
        lite, detr = cfg.MODEL.LITE, cfg.MODEL.DETR
        layers = detr.ENCODER.NUM_LAYERS
        if lite.NUM_BLOCKS < 1 or layers % lite.NUM_BLOCKS:
            raise ValueError(
                f"MODEL.DETR.ENCODER.NUM_LAYERS {layers} cannot be divided into "
                f"MODEL.LITE.NUM_BLOCKS {lite.NUM_BLOCKS} equal blocks; it must be a multiple of it"
            )
        if not 1 <= lite.NUM_HIGH_LEVELS <= detr.NUM_LEVELS:
            raise ValueError(
                f"MODEL.LITE.NUM_HIGH_LEVELS is {lite.NUM_HIGH_LEVELS}; it must be between 1 and "
                f"MODEL.DETR.NUM_LEVELS {detr.NUM_LEVELS}"
            )

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """Arguments of the constructor from ``MODEL.DETR`` and ``MODEL.LITE``."""
        detr, lite = cfg.MODEL.DETR, cfg.MODEL.LITE
        layers = []
        for index in range(1, detr.ENCODER.NUM_LAYERS + 1):
            last_of_block = index % (detr.ENCODER.NUM_LAYERS // lite.NUM_BLOCKS) == 0
            if last_of_block and lite.NUM_HIGH_LEVELS < detr.NUM_LEVELS:
                layers.append(AllLevelsLayer(cfg, low_ffn_dim=lite.LOW_FFN_DIM))
            else:
                layers.append(EncoderLayer(cfg))
        settings = LiteSettings(
            num_high_levels=lite.NUM_HIGH_LEVELS,
            low_update=lite.LOW_UPDATE,
            gradient_checkpointing=detr.GRADIENT_CHECKPOINTING,
        )
        return {"layers": layers, "settings": settings}

    def forward(self, tokens: FeatureTokens, proposal_head: TokenHead | None) -> EncoderOutput:
        """Encode ``tokens``; ``proposal_head`` is not used."""
        low, high = self.split_levels(tokens)
        for layer in self.layers:
            arguments = (layer, low.features, low, high, tokens)
            features = run_layer(self.settings.gradient_checkpointing, self.update, *arguments)
            low, high = low._replace(features=features[0]), high._replace(features=features[1])
        return EncoderOutput(torch.cat((low.features, high.features), 1))

    def split_levels(self, tokens: FeatureTokens) -> tuple[TokenQueries, TokenQueries]:
        """All tokens of the low and of the high levels."""
        low_shapes = tokens.spatial_shapes[: -self.settings.num_high_levels]
        num_low = sum(height * width for height, width in low_shapes)
        return TokenQueries.all_of(tokens).split(num_low)

    def update(
        self,
        layer: EncoderLayer,
        low_value: Tensor,
        low: TokenQueries,
        high: TokenQueries,
        tokens: FeatureTokens,
    ) -> tuple[Tensor, Tensor]:
        """Features (B, N, C) after a layer of the ``low`` tokens that it may update, which are
        among all of the low levels, ``low_value``, and of the high levels."""
        value = layer.self_attn.project((low_value, high.features), tokens.value_mask)
        updated: Tensor = layer(high, value, tokens)
        if not isinstance(layer, AllLevelsLayer):
            return low.features, updated
        if self.settings.low_update == "after":
            value = layer.self_attn.project((low_value, updated), tokens.value_mask)
        return layer.update_low(low, value, tokens), updated
