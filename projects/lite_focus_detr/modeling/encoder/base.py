"""What an encoder is: the interface between tokens and queries."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

from detectron2.config import CfgNode
from detectron2.utils.registry import Registry
from torch import Tensor, nn

from ..attention_map import Sampling
from ..heads import Prediction, ProposalHead
from ..targets import Targets
from ..tokens import FeatureTokens

ENCODER_REGISTRY = Registry("ENCODER")
ENCODER_REGISTRY.__doc__ = "Encoders by name, built as ``Encoder(cfg)``; see :class:`Encoder`."


class EncoderOutput(NamedTuple):
    """Result of an encoder."""

    memory: Tensor  #: (B, S, C) all tokens
    aux: Mapping[str, Any] = MappingProxyType({})  #: for the encoder's own losses and pictures
    predictions: Sequence[Prediction] = ()  #: of its layers, trained like the decoder's


class Encoder(nn.Module):
    """Base of the encoders: update tokens, and own the losses that the update needs."""

    #: A proposal head is needed to score tokens, whatever the queries are.
    needs_proposal_head = False
    #: The losses need to know where the decoder samples.
    needs_sampling = False

    def forward(self, tokens: FeatureTokens, proposal_head: ProposalHead | None) -> EncoderOutput:
        """Encode the feature levels of a batch.

        ``proposal_head`` scores tokens; None if neither queries nor encoder ask for one.
        """
        raise NotImplementedError

    def losses(
        self,
        output: EncoderOutput,
        tokens: FeatureTokens,
        targets: Targets,
        sampling: Sequence[Sampling],
    ) -> dict[str, Tensor]:
        """Weighted losses beyond those of the detector; none by default.

        ``output`` is that of this encoder for ``tokens``, ``sampling`` that of the queries in each
        decoder layer if ``needs_sampling``, else empty.
        """
        return {}


def build_encoder(name: str, cfg: CfgNode) -> Encoder:
    """Build the encoder registered as ``name``."""
    return ENCODER_REGISTRY.get(name)(cfg)
