"""What an encoder is: the interface between tokens and queries."""

from collections.abc import Mapping, Sequence
from typing import ClassVar

from detectron2.config import CfgNode
from detectron2.utils.registry import Registry
from torch import Tensor, nn

from ..proposals import TokenHead
from ..structures import EncoderOutput, FeatureTokens, Sampling, Targets
from .token_selection import spread_keep_ratio

ENCODER_REGISTRY = Registry("ENCODER")
ENCODER_REGISTRY.__doc__ = "Encoders by name, built as ``Encoder(cfg)``; see :class:`Encoder`."


class Encoder(nn.Module):
    """Base of the encoders: update tokens, and own the configuration keys and losses of that."""

    #: Shares of the tokens that layers or blocks update; empty: all layers update all.
    keep_ratios: Sequence[float] = ()
    _configured_keep_ratios: Sequence[float] = ()
    #: Tokens are scored: a proposal head is needed, whatever the queries are.
    needs_proposal_head = False
    #: The losses need to know where the decoder samples.
    needs_sampling = False
    #: Names of submodules that only a training uses.
    training_only: tuple[str, ...] = ()
    #: Checked for configuration keys by full names: possible and smallest values, and for lists the
    #: key that says how many entries they have.
    choices: ClassVar[Mapping[str, Sequence[str]]] = {}
    minimum_values: ClassVar[Mapping[str, float]] = {}
    list_lengths: ClassVar[Mapping[str, str]] = {}

    @staticmethod
    def add_config(cfg: CfgNode) -> None:
        """Add the keys of the encoder with their defaults, in place; by default there are none."""

    @staticmethod
    def validate_config(cfg: CfgNode) -> None:
        """Raise a ValueError for keys that the encoder cannot be built or trained with."""

    def forward(self, tokens: FeatureTokens, proposal_head: TokenHead | None) -> EncoderOutput:
        """Encode all levels of a batch. The ``proposal_head`` scores tokens; it is the detector's,
        as in published weights, and None if neither queries nor encoder ask for it."""
        raise NotImplementedError

    def losses(
        self, output: EncoderOutput, tokens: FeatureTokens, targets: Targets, sampling: Sampling
    ) -> dict[str, Tensor]:
        """Weighted losses beyond those of the detector, by name, of the ``output`` for ``tokens``;
        none by default. ``sampling`` is empty unless ``needs_sampling``."""
        return {}

    @property
    def configured_keep_ratios(self) -> Sequence[float]:
        """Those of the configuration, whatever the budget is."""
        return self._configured_keep_ratios or self.keep_ratios

    def set_budget(self, keep_ratio: float | None) -> None:
        """See :meth:`DetectionTransformer.set_budget`."""
        if not self.keep_ratios:
            raise ValueError(f"{type(self).__name__} updates all tokens and has no budget")
        ratios = configured = self.configured_keep_ratios
        if keep_ratio is not None:
            ratios = spread_keep_ratio(keep_ratio, configured)
        self._configured_keep_ratios, self.keep_ratios = configured, ratios
