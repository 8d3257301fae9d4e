"""The self-attention of Focus-DETR among the tokens that look most like objects."""

import dataclasses
from typing import Literal

import torch
from torch import Tensor, nn

from ..proposals import TokenHead
from ..structures import TokenQueries, TokenSelection
from ..transformer_layer import xavier_matrices


@dataclasses.dataclass(frozen=True)
class ObjectRule:
    """Object tokens have the highest product of class and foreground score."""

    count: int  #: of an image, as far as it has so many tokens
    score: Literal["logit", "probability"]  #: before or after the sigmoid

    @torch.no_grad()
    def select(
        self,
        features: Tensor,
        foreground: Tensor,
        within: Tensor | None,
        proposal_head: TokenHead,
    ) -> TokenSelection:
        """The object tokens of an image.

        Args:
            features: (B, N, C) of the tokens to choose from.
            foreground: (B, N) their logits.
            within: (B, N) bool, False for tokens that are none of the image; None: all are.
            proposal_head: scores classes.
        """
        score = proposal_head.predict_logits(features).amax(-1)
        if self.score == "probability":
            score, foreground = score.sigmoid(), foreground.sigmoid()
        score = score * foreground
        if within is not None:
            score = torch.where(within, score, float("-inf"))
        best = score.topk(min(self.count, score.shape[1]), dim=1)
        usable = None if within is None else best.values > float("-inf")
        return TokenSelection(best.indices, usable)


class DualAttention(nn.Module):
    """Self-attention of object tokens, before the deformable attention (Focus-DETR, 3.3)."""

    def __init__(self, *, embed_dim: int, num_heads: int, dropout: float) -> None:
        """
        Args:
            embed_dim: channels C.
            num_heads: heads M.
            dropout: probability, of the attention's weights and of the residual branch.
        """
        super().__init__()
        self.self_attn = nn.MultiheadAttention(embed_dim, num_heads, dropout, batch_first=True)
        self.dropout = nn.Dropout(dropout)
        self.norm = nn.LayerNorm(embed_dim)
        xavier_matrices(self.self_attn)

    def forward(self, queries: TokenQueries, objects: TokenSelection) -> Tensor:
        """Features (B, N, C) of the queries after the ``objects`` among them have met."""
        content = objects.gather(queries.features)
        query = content + objects.gather(queries.position)
        fillers = None if objects.within_budget is None else ~objects.within_budget
        attended = self.self_attn(query, query, content, fillers, need_weights=False)[0]
        return objects.scatter(queries.features, self.norm(content + self.dropout(attended)))
