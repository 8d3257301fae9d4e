"""What an encoder is: the interface between tokens and queries."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from detectron2.config import CfgNode
from detectron2.utils.registry import Registry
from torch import Tensor, nn

from ..heads import ProposalHead
from ..tokens import FeatureTokens

ENCODER_REGISTRY = Registry("ENCODER")
ENCODER_REGISTRY.__doc__ = """
Encoders by name. Built as ``Encoder(cfg)``; see :class:`Encoder` for what they must do.
"""


class EncoderOutput(NamedTuple):
    """Result of an encoder."""

    memory: Tensor  #: (B, S, C) all tokens
    aux: Mapping[str, Any] = MappingProxyType({})  #: for the encoder's own losses and pictures


class Encoder(nn.Module):
    """Base of the encoders: update tokens, and own the losses that the update needs."""

    def forward(self, tokens: FeatureTokens, proposal_head: ProposalHead | None) -> EncoderOutput:
        """Encode.

        Args:
            tokens: feature levels of a batch.
            proposal_head: scores tokens; None if neither queries nor encoder ask for one.
        """
        raise NotImplementedError

    def losses(
        self, output: EncoderOutput, tokens: FeatureTokens, targets: Any, predictions: Any
    ) -> dict[str, Tensor]:
        """Weighted losses beyond those of the detector; none by default.

        Args:
            output: of this encoder for ``tokens``.
            tokens: feature levels of the batch.
            targets: ground truth of the batch.
            predictions: of all decoder layers.
        """
        return {}


def build_encoder(name: str, cfg: CfgNode) -> Encoder:
    """Build the encoder registered as ``name``."""
    return ENCODER_REGISTRY.get(name)(cfg)
