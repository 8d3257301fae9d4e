"""What an encoder is: the interface between tokens and queries."""

from collections.abc import Mapping, Sequence
from typing import ClassVar

from detectron2.config import CfgNode
from detectron2.utils.registry import Registry
from torch import Tensor, nn

from ..proposals import TokenHead
from ..structures import EncoderOutput, FeatureTokens, Sampling, Targets

ENCODER_REGISTRY = Registry("ENCODER")
ENCODER_REGISTRY.__doc__ = "Encoders by name, built as ``Encoder(cfg)``; see :class:`Encoder`."


class Encoder(nn.Module):
    """Base of the encoders: update tokens, and own the configuration keys and losses of that."""

    #: Tokens are scored: a proposal head is needed, whatever the queries are.
    needs_proposal_head = False
    #: The losses need to know where the decoder samples.
    needs_sampling = False
    #: Names of submodules that only a training uses.
    training_only: tuple[str, ...] = ()
    #: Possible values of configuration keys, by their full names; checked as the smallest ones are.
    choices: ClassVar[Mapping[str, Sequence[str]]] = {}
    minimum_values: ClassVar[Mapping[str, float]] = {}

    @staticmethod
    def add_config(cfg: CfgNode) -> None:
        """Add the keys of the encoder with their defaults, in place; by default there are none."""

    @staticmethod
    def validate_config(cfg: CfgNode) -> None:
        """Raise a ValueError for keys that the encoder cannot be built or trained with."""

    def forward(self, tokens: FeatureTokens, proposal_head: TokenHead | None) -> EncoderOutput:
        """Encode all levels of a batch.

        The ``proposal_head`` scores tokens; None if neither queries nor encoder ask for it. It is
        the detector's, handed on because published weights have it once.
        """
        raise NotImplementedError

    def losses(
        self, output: EncoderOutput, tokens: FeatureTokens, targets: Targets, sampling: Sampling
    ) -> dict[str, Tensor]:
        """Weighted losses beyond those of the detector, by name, of the ``output`` for ``tokens``;
        none by default. ``sampling`` is empty unless ``needs_sampling``."""
        return {}


def build_encoder(name: str, cfg: CfgNode) -> Encoder:
    """Build the encoder registered as ``name``."""
    return ENCODER_REGISTRY.get(name)(cfg)
