"""The encoder that updates only the tokens that score as foreground: base of Focus and Sparse."""

from collections.abc import Sequence
from typing import Any

import torch
from detectron2.config import CfgNode
from torch import Tensor, nn

from ..heads import ProposalHead, full_precision, token_anchors, xavier_matrices
from ..tokens import FeatureTokens
from .base import Encoder, EncoderOutput
from .deformable import layer_arguments
from .layer import EncoderLayer, TokenQueries
from .scoring import TokenScorer
from .selection import TokenSelection, layer_counts, select_best, token_budgets, within_budget


class ObjectAttention(nn.Module):
    """Self-attention of the updated tokens that look most like objects (Focus-DETR, 3.3)."""

    def __init__(self, *, embed_dim: int, num_heads: int, dropout: float) -> None:
        """Sizes of the attention; ``dropout`` of its weights and of the residual branch."""
        super().__init__()
        self.self_attn = nn.MultiheadAttention(
            embed_dim, num_heads, dropout=dropout, batch_first=True
        )
        self.dropout = nn.Dropout(dropout)
        self.norm = nn.LayerNorm(embed_dim)
        xavier_matrices(self.self_attn)

    def forward(self, rows: Tensor, position: Tensor, objects: TokenSelection) -> Tensor:
        """Update the ``objects`` among the rows (B, N, C), whose ``position`` is (B, N, C)."""
        content = objects.gather(rows)
        query = content + objects.gather(position)
        fillers = None if objects.kept is None else ~objects.kept
        attended = self.self_attn(
            query, query, content, key_padding_mask=fillers, need_weights=False
        )[0]
        return objects.scatter(rows, self.norm(content + self.dropout(attended)))


class SelectiveEncoder(Encoder):
    """Score all tokens once, then update the best in every layer; the others keep their features.

    The tokens of each layer are the best of those of the layer before, so one sort serves all.
    """

    needs_proposal_head = True
    #: Rows beyond an image's own budget go on with their updates from layer to layer. Else every
    #: layer starts from their features before the first.
    carries_fillers = False

    def __init__(
        self,
        *,
        layers: Sequence[EncoderLayer],
        scorer: TokenScorer,
        keep_ratios: Sequence[float],
        frozen_values: bool,
        object_attention: Sequence[ObjectAttention],
        num_objects: int,
        object_score: str,
    ) -> None:
        """Configure the selection.

        ``keep_ratios``: share of an image's tokens that each layer updates, falling.
        ``frozen_values``: attend to the features of the neck in every layer, not to the updated
        tokens. ``object_attention``: before each layer, of ``num_objects`` tokens; empty: none.
        ``object_score``: ``logit`` or ``probability`` of class and foreground, multiplied.
        """
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.scorer = scorer
        self.keep_ratios = list(keep_ratios)
        self.frozen_values = frozen_values
        self.object_attention = nn.ModuleList(object_attention)
        self.num_objects = num_objects
        self.object_score = object_score

    def forward(self, tokens: FeatureTokens, proposal_head: ProposalHead | None) -> EncoderOutput:
        """Encode; ``aux`` has what :meth:`losses` and pictures need.

        ``foreground``: logits (B, S); ``budgets``: tokens that each image may update; ``kept``: the
        selection of each layer; ``objects``: among these; ``layers``: the updated rows.
        """
        assert proposal_head is not None
        anchors, valid = token_anchors(tokens)
        features = proposal_head.project(tokens.features + tokens.position, valid)
        foreground = self.scorer(features, tokens.spatial_shapes)
        budgets = token_budgets(tokens.num_valid, self.keep_ratios[0])
        scores = foreground.detach().masked_fill(tokens.padding_mask, float("-inf"))
        selection = select_best(scores, max(budgets), budgets)
        # As published, padding has the lowest score of the batch.
        scores = scores.gather(1, selection.indices).clamp(min=foreground.min().detach())
        position = selection.gather(tokens.position)
        references = tokens.to_levels(selection.gather(tokens.centers))
        memory = tokens.features
        rows = fresh = selection.gather(tokens.features)
        left: list[Tensor] = []  # rows that no later layer updates
        aux: dict[str, Any] = {"foreground": foreground, "budgets": budgets, "anchors": anchors}
        aux.update(kept=[], objects=[], layers=[])
        counts = layer_counts(max(budgets), self.keep_ratios)
        for index, (layer, count) in enumerate(zip(self.layers, counts, strict=True)):
            chosen = selection.first(count)
            left.insert(0, rows[:, count:])
            rows, where, score = (x[:, :count] for x in (rows, position, scores))
            if len(self.object_attention) > 0:
                limits = budgets
                if self.object_score == "logit" and not tokens.batch_invariant:
                    # As published, rows beyond an image's budget may be objects as well.
                    limits = (count,) * len(budgets)
                objects = self._select_objects(rows, score, proposal_head, limits)
                rows = self.object_attention[index](rows, where, objects)
                aux["objects"].append(objects)
            queries = TokenQueries(rows, where, references[:, :count])
            rows = layer(queries, memory, tokens)
            if chosen.kept is not None and not self.carries_fillers:
                rows = torch.where(chosen.kept[..., None], rows, fresh[:, :count])
            if not self.frozen_values:
                memory = chosen.scatter(memory, rows)
            aux["kept"].append(chosen)
            aux["layers"].append(rows)
        if self.frozen_values:
            memory = selection.scatter(memory, torch.cat((rows, *left), 1))
        return EncoderOutput(memory, aux)

    @torch.no_grad()
    def _select_objects(
        self, rows: Tensor, foreground: Tensor, head: ProposalHead, limits: Sequence[int]
    ) -> TokenSelection:
        """Best rows by class times foreground score (B, N) among the first ``limits`` of each image
        in rows (B, N, C)."""
        score, count = full_precision(head.class_embed(rows)).amax(-1), rows.shape[1]
        if self.object_score == "probability":
            score, foreground = score.sigmoid(), foreground.sigmoid()
        score = score * foreground
        if min(limits) < count:
            inside = within_budget(count, limits, rows.device)
            score = torch.where(inside, score, float("-inf"))
        return select_best(score, min(self.num_objects, count), limits)


def selection_arguments(cfg: CfgNode, node: CfgNode, order: str) -> dict[str, Any]:
    """Modules of a :class:`SelectiveEncoder`, with the object attention that ``node`` asks for, as
    named arguments; ``order`` see :class:`TokenScorer`."""
    detr, encoder = cfg.MODEL.DETR, cfg.MODEL.DETR.ENCODER
    dim, count = detr.EMBED_DIM, encoder.NUM_LAYERS
    return {
        "scorer": TokenScorer(embed_dim=dim, num_levels=detr.NUM_LEVELS, order=order),
        "object_attention": [
            ObjectAttention(embed_dim=dim, num_heads=detr.NUM_HEADS, dropout=encoder.DROPOUT)
            for _ in range(count if node.OBJECT_TOKENS else 0)
        ],
        "layers": [EncoderLayer(**layer_arguments(cfg)) for _ in range(count)],
        "num_objects": node.OBJECT_TOKENS,
        "object_score": node.OBJECT_SCORE,
    }
