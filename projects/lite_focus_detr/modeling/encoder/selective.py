"""Base of FocusEncoder and SparseEncoder: score all tokens, update only the best."""

import dataclasses
from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from detectron2.config import CfgNode
from torch import Tensor, nn

from ..proposals import TokenHead
from ..structures import EncoderOutput, FeatureTokens, SelectionTrace, TokenQueries, TokenSelection
from ..transformer_layer import run_layer
from .base import Encoder
from .dual_attention import DualAttention, ObjectRule
from .layer import EncoderLayer
from .shortcuts import LinearShortcuts
from .token_scorer import TokenScorer, score_tokens
from .token_selection import budget_mask, token_budgets, tokens_per_layer, topk_tokens

#: The features of the neck in every layer, or the updated ones.
Source = Literal["frozen", "updated"]


@dataclasses.dataclass(frozen=True)
class SelectionSettings:
    """What the selected tokens attend to, and which of them attend twice."""

    value: Source  #: what the layers attend to
    objects: ObjectRule  #: of the dual attention
    gradient_checkpointing: bool  #: see :func:`run_layer`


class SelectiveParts(NamedTuple):
    """What every selective encoder is made of."""

    layers: Sequence[EncoderLayer]  #: in order
    scorer: TokenScorer  #: of all tokens
    dual_attention: Sequence[DualAttention]  #: one for each of the ratios; empty: none
    keep_ratios: Sequence[float]  #: shares of an image's tokens; in (0, 1], not rising
    settings: SelectionSettings
    shortcuts: LinearShortcuts | None  #: of the other tokens; None: they keep their features


class SelectiveEncoder(Encoder):
    """Score all tokens once, then update the best in every layer.

    The tokens of each layer are the best of those of the layer before, so one sort serves all. The
    others keep the features of their last update, without one those of the neck or, if there are
    shortcuts, what these predict.
    """

    needs_proposal_head = True
    #: Tokens beyond an image's own budget, which fill up a batch, go on with their updates from
    #: layer to layer. Else they enter every layer as they came from the neck.
    carries_fillers = False

    def __init__(self, parts: SelectiveParts) -> None:
        """
        Args:
            parts: layers and what chooses their tokens.
        """
        super().__init__()
        self.layers = nn.ModuleList(parts.layers)
        self.scorer = parts.scorer
        self.dual_attention = nn.ModuleList(parts.dual_attention)
        self.keep_ratios = parts.keep_ratios
        self.settings = parts.settings
        self.shortcuts = parts.shortcuts

    def forward(self, tokens: FeatureTokens, proposal_head: TokenHead | None) -> EncoderOutput:
        """Encode ``tokens``; ``proposal_head`` scores them."""
        assert proposal_head is not None
        scores, ranking, trace = self.rank_tokens(tokens, proposal_head)
        initial = active = gather_queries(ranking, tokens)
        memory, latest = tokens.features, initial.features
        around = self.shortcuts.look_around(tokens) if self.shortcuts is not None else []
        counts = tokens_per_layer(max(trace.budgets), self.keep_ratios)
        checkpointing = self.settings.gradient_checkpointing
        for index, (layer, count) in enumerate(zip(self.layers, counts, strict=True)):
            kept = ranking.first(count)
            active = active.part(0, count)
            if len(self.dual_attention) > 0:
                objects = self.select_object_tokens(active, scores, trace.budgets, proposal_head)
                active = active._replace(features=self.dual_attention[index](active, objects))
                trace.objects.append(objects)
            features = run_layer(checkpointing, layer, active, memory, tokens)
            if not self.carries_fillers:
                features = kept.keep_fillers(features, initial.features[:, :count])
            active = active._replace(features=features)
            latest = torch.cat((features, latest[:, count:]), 1)
            if self.settings.value == "updated":
                memory = ranking.scatter(self.skip_layers(tokens, around, index), latest)
            trace.kept.append(kept)
            trace.features.append(features)
        if self.settings.value == "frozen":
            memory = ranking.scatter(self.skip_layers(tokens, around, len(self.layers) - 1), latest)
        return EncoderOutput(memory, trace)

    def skip_layers(self, tokens: FeatureTokens, around: Sequence[Tensor], last: int) -> Tensor:
        """Features (B, S, C) after the layers up to the ``last`` of tokens that skip all, from
        what the shortcuts find ``around`` them."""
        if self.shortcuts is None:
            return tokens.features
        skipped: Tensor = self.shortcuts(last, tokens.features, around)
        return skipped

    def skipped_tokens(self, tokens: FeatureTokens, proposal_head: TokenHead) -> Tensor:
        """Which tokens (B, S), bool, no layer updates, padded ones among them."""
        return ~self.rank_tokens(tokens, proposal_head)[1].mark(tokens.padding_mask)

    def rank_tokens(
        self, tokens: FeatureTokens, proposal_head: TokenHead
    ) -> tuple[Tensor, TokenSelection, SelectionTrace]:
        """The first layer's tokens: their scores (B, N), best first, and the trace to be filled."""
        foreground = score_tokens(self.scorer, tokens, proposal_head)
        budgets = token_budgets(tokens.num_valid, self.keep_ratios[0])
        scores = foreground.detach().masked_fill(tokens.padding_mask, float("-inf"))
        selection = topk_tokens(scores, max(budgets), budgets)
        # As published, padding has the lowest score of the batch.
        scores = scores.gather(1, selection.indices).clamp(min=foreground.min().detach())
        return scores, selection, SelectionTrace(foreground, budgets, [], [], [])

    def select_object_tokens(
        self,
        active: TokenQueries,
        foreground: Tensor,
        budgets: Sequence[int],
        proposal_head: TokenHead,
    ) -> TokenSelection:
        """The object tokens among the N ``active`` tokens with scores ``foreground`` (B, N…); as
        published, the score ``logit`` also finds tokens beyond the budget of an image."""
        count, rule, within = active.features.shape[1], self.settings.objects, None
        if min(budgets) < count and rule.score != "logit":
            within = budget_mask(count, budgets, active.features.device)
        return rule.select(active.features, foreground[:, :count], within, proposal_head)


def gather_queries(selection: TokenSelection, tokens: FeatureTokens) -> TokenQueries:
    """The selected tokens as queries at their centres."""
    return TokenQueries(
        selection.gather(tokens.features),
        selection.gather(tokens.position),
        tokens.scale_to_levels(selection.gather(tokens.centers)),
    )


def build_selective_parts(
    cfg: CfgNode,
    layers: Sequence[EncoderLayer],
    keep_ratios: Sequence[float],
    objects: ObjectRule,
    *,
    value: Source,
    modulation: str,
    shortcuts: bool = False,
    kernel_size: int = 1,
) -> SelectiveParts:
    """The parts of a selective encoder from ``MODEL.DETR`` and its own settings: a dual
    attention for each of the ``keep_ratios``, scores that know ``kernel_size`` tokens."""
    detr = cfg.MODEL.DETR
    checkpointing = detr.GRADIENT_CHECKPOINTING
    settings = SelectionSettings(value=value, objects=objects, gradient_checkpointing=checkpointing)
    embed_dim, num_heads = detr.EMBED_DIM, detr.NUM_HEADS
    levels = {"num_levels": detr.NUM_LEVELS, "modulation": modulation}
    scorer = TokenScorer(embed_dim=embed_dim, kernel_size=kernel_size, **levels)
    sizes = {"embed_dim": embed_dim, "num_heads": num_heads, "dropout": detr.ENCODER.DROPOUT}
    num_dual = len(keep_ratios) if objects.count else 0
    dual_attention = [DualAttention(**sizes) for _ in range(num_dual)]
    skipping = None
    if shortcuts:
        counts = {"num_layers": len(layers), "num_levels": detr.NUM_LEVELS}
        skipping = LinearShortcuts(embed_dim=embed_dim, **counts)
    return SelectiveParts(layers, scorer, dual_attention, list(keep_ratios), settings, skipping)
