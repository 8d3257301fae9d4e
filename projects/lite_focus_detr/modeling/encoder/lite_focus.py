"""Lite DETR's blocks with Focus-DETR's selection: few updates of few low-level tokens."""

from typing import Any, ClassVar

import torch
from detectron2.config import CfgNode, configurable
from torch import nn

from ..proposals import TokenHead
from ..structures import EncoderOutput, FeatureTokens, SelectionTrace, TokenQueries
from ..transformer_layer import run_layer
from .base import ENCODER_REGISTRY
from .dual_attention import ObjectRule
from .foreground import ForegroundRule, ForegroundSupervised
from .lite import LiteEncoder, LiteSettings
from .selective import SelectiveParts, build_selective_parts, gather_queries
from .token_scorer import score_tokens
from .token_selection import require_keep_ratios, select_by_ratios, select_from, token_budgets


@ENCODER_REGISTRY.register()
class LiteFocusEncoder(ForegroundSupervised, LiteEncoder):
    """High levels as in Lite DETR; of the low ones a block updates what scores as foreground."""

    needs_proposal_head = True
    choices: ClassVar = {**LiteEncoder.choices, **ForegroundSupervised.choices}
    minimum_values: ClassVar = {
        **LiteEncoder.minimum_values,
        **ForegroundSupervised.minimum_values,
        "MODEL.LITE_FOCUS.OBJECT_TOKENS": 0,
    }
    list_lengths: ClassVar = {
        **ForegroundSupervised.list_lengths,
        "MODEL.LITE_FOCUS.KEEP_RATIOS": "MODEL.LITE.NUM_BLOCKS",
    }

    @configurable
    def __init__(
        self, *, lite: LiteSettings, parts: SelectiveParts, rule: ForegroundRule, loss_weight: float
    ) -> None:
        """
        Args:
            lite: of high and low levels.
            parts: with a keep ratio, of low-level tokens, and a dual attention for each block.
            rule: says which tokens must be found.
            loss_weight: of the foreground loss, at least 0.
        """
        super().__init__(layers=parts.layers, settings=lite)
        self.scorer = parts.scorer
        self.keep_ratios, self.objects = parts.keep_ratios, parts.settings.objects
        self.rule, self.loss_weight = rule, loss_weight
        period = len(parts.layers) // len(parts.keep_ratios)
        self.last_of_block = range(period - 1, len(parts.layers), period)
        self.watched_layers = (self.last_of_block[0], self.last_of_block[-1])
        # Named by the layer that they precede, as those of Focus-DETR are.
        named = zip(map(str, self.last_of_block), parts.dual_attention, strict=False)
        self.dual_attention = nn.ModuleDict(dict(named))

    @staticmethod
    def add_config(cfg: CfgNode) -> None:
        """Add ``MODEL.LITE_FOCUS``; ``MODEL.LITE`` has the blocks, ``MODEL.FOCUS`` the scores."""
        cfg.MODEL.LITE_FOCUS = lite_focus = CfgNode()
        # Share of an image's low-level tokens that each block updates, not rising.
        lite_focus.KEEP_RATIOS = [0.5, 0.3, 0.1]
        # Tokens of the dual attention of Focus-DETR before the last layer of each block, from the
        # high levels and the kept low tokens, chosen by MODEL.FOCUS.OBJECT_SCORE; 0: none.
        lite_focus.OBJECT_TOKENS = 0

    @staticmethod
    def validate_config(cfg: CfgNode) -> None:
        """See :meth:`Encoder.validate_config`."""
        LiteEncoder.validate_config(cfg)
        ForegroundSupervised.validate_config(cfg)
        require_keep_ratios("MODEL.LITE_FOCUS.KEEP_RATIOS", cfg.MODEL.LITE_FOCUS.KEEP_RATIOS)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """Arguments of the constructor from a configuration."""
        lite, node, focus = super().from_config(cfg), cfg.MODEL.LITE_FOCUS, cfg.MODEL.FOCUS
        objects = ObjectRule(count=node.OBJECT_TOKENS, score=focus.OBJECT_SCORE)
        options = {"value": "updated", "modulation": focus.MODULATION}
        parts = build_selective_parts(cfg, lite["layers"], node.KEEP_RATIOS, objects, **options)
        rule, weight = ForegroundRule.from_config(cfg), focus.LOSS_WEIGHT
        return {"lite": lite["settings"], "parts": parts, "rule": rule, "loss_weight": weight}

    def forward(self, tokens: FeatureTokens, proposal_head: TokenHead | None) -> EncoderOutput:
        """Encode ``tokens``, which ``proposal_head`` scores as they come from the neck."""
        assert proposal_head is not None
        foreground = score_tokens(self.scorer, tokens, proposal_head)
        low, high = self.split_levels(tokens)
        memory, num_low = low.features, low.features.shape[1]
        num_valid = [sum(x[: -self.settings.num_high_levels]) for x in tokens.level_valid]
        scores = foreground.detach().masked_fill(tokens.padding_mask, float("-inf"))
        blocks = select_by_ratios(scores[:, :num_low], num_valid, self.keep_ratios)
        best, all_high = gather_queries(blocks[0], tokens), select_from(num_low, tokens)
        num_high = [sum(x[-self.settings.num_high_levels :]) for x in tokens.level_valid]
        counts = zip(token_budgets(num_valid, self.keep_ratios[0]), num_high, strict=True)
        trace = SelectionTrace(foreground, tuple(map(sum, counts)), [], [], [])
        for index, layer in enumerate(self.layers):
            kept, chosen = None, all_high
            if index in self.last_of_block:
                kept = blocks[self.last_of_block.index(index)]
                chosen = kept.followed_by(all_high)
                low = best.part(0, kept.indices.shape[1])._replace(features=kept.gather(memory))
            if str(index) in self.dual_attention:
                queries = TokenQueries(*(torch.cat(x, 1) for x in zip(low, high, strict=True)))
                rule, scored = self.objects, chosen.gather(scores[..., None])[..., 0]
                arguments = (queries.features, scored, chosen.within_budget, proposal_head)
                trace.objects.append(rule.select(*arguments))
                features = self.dual_attention[str(index)](queries, trace.objects[-1])
                low, high = queries._replace(features=features).split(low.features.shape[1])
            elif self.dual_attention:
                trace.objects.append(all_high.first(0))
            inputs = (self.update, layer, memory, low, high, tokens)
            features, updated = run_layer(self.settings.gradient_checkpointing, *inputs)
            high = high._replace(features=updated)
            memory = memory if kept is None else kept.scatter(memory, features)
            trace.kept.append(chosen)
            trace.features.append(updated if kept is None else torch.cat((features, updated), 1))
        return EncoderOutput(torch.cat((memory, high.features), 1), trace)
