"""What an encoder is: the interface between tokens and queries."""

from collections.abc import Mapping, Sequence
from functools import reduce
from operator import getitem

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


def require_values(
    cfg: CfgNode, choices: Mapping[str, Sequence[str]], minimum_values: Mapping[str, float]
) -> None:
    """Refuse keys, given by full name, whose value is none of the ``choices`` or is too small."""
    for key, allowed in choices.items():
        value = reduce(getitem, key.split("."), cfg)
        if value not in allowed:
            raise ValueError(f"{key} is {value!r}; it must be one of {', '.join(allowed)}")
    for key, least in minimum_values.items():
        value = reduce(getitem, key.split("."), cfg)
        if value < least:
            raise ValueError(f"{key} is {value}; it must be at least {least}")
