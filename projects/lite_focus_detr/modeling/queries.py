"""Where the decoder's queries come from: learned, from the best proposals, or mixed."""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from .heads import Prediction, ProposalHead, full_precision, token_anchors
from .position_encoding import sine_box_embedding
from .tokens import FeatureTokens


class Queries(NamedTuple):
    """What the decoder starts from. B images, Q queries, C channels."""

    content: Tensor  #: (B, Q, C)
    position: Tensor | None  #: (B, Q, C); None: the decoder embeds the reference in each layer
    reference: Tensor  #: (B, Q, 2) points or (B, Q, 4) boxes cxcywh in [0, 1]
    padding_mask: Tensor | None = None  #: (B, Q) bool, True for slots that hold no query
    indices: Tensor | None = None  #: (B, Q) tokens that became queries, best score first
    proposals: Prediction | None = None  #: of all tokens if all are trained, else of the chosen


class LearnedPointQueries(nn.Module):
    """Learned content and position; the reference point is read off the position."""

    def __init__(self, *, num_queries: int, embed_dim: int) -> None:
        super().__init__()
        self.query_embed = nn.Embedding(num_queries, embed_dim * 2)
        self.reference_points = nn.Linear(embed_dim, 2)
        nn.init.xavier_uniform_(self.reference_points.weight)
        nn.init.zeros_(self.reference_points.bias)

    def forward(self, memory: Tensor, *_: object) -> Queries:
        """The same queries for every image of ``memory`` (B, S, C)."""
        position, content = self.query_embed.weight.expand(len(memory), -1, -1).chunk(2, dim=-1)
        # References address pixels: they are not rounded to half precision.
        with torch.autocast(memory.device.type, enabled=False):
            reference = self.reference_points(position).sigmoid()
        return Queries(content, position, reference)


class LearnedBoxQueries(nn.Module):
    """Learned content and anchor boxes (DAB-DETR)."""

    def __init__(self, *, num_queries: int, embed_dim: int, indicator: bool) -> None:
        """``indicator``: the last channel is zero here and one in plain denoising queries."""
        super().__init__()
        self.num_indicators = int(indicator)
        self.tgt_embed = nn.Embedding(num_queries, embed_dim - self.num_indicators)
        self.refpoint_embed = nn.Embedding(num_queries, 4)
        # Anchors of any place and size; contents are learned from nothing.
        nn.init.zeros_(self.tgt_embed.weight)
        anchors = torch.rand(num_queries, 4).logit().clamp(-3.0, 3.0)
        self.refpoint_embed.weight.data.copy_(anchors)

    def forward(self, memory: Tensor, *_: object) -> Queries:
        """The same queries for every image of ``memory`` (B, S, C)."""
        content = nn.functional.pad(self.tgt_embed.weight, (0, self.num_indicators))
        reference = self.refpoint_embed.weight.sigmoid()
        batch = len(memory)
        return Queries(content.expand(batch, -1, -1), None, reference.expand(batch, -1, -1))


class ProposalQueries(nn.Module):
    """Queries at the best-scored tokens; subclasses give them content (and position)."""

    def __init__(
        self, *, num_queries: int, class_agnostic: bool, all_boxes: bool, train_all: bool
    ) -> None:
        """Keep ``num_queries`` tokens, scored by row 0 of the class head if ``class_agnostic``,
        else by the best class; ``all_boxes``: compute the boxes of all tokens; ``train_all``: and
        train them all, as happens in any case if there is but one class."""
        super().__init__()
        self.num_queries = num_queries
        self.class_agnostic = class_agnostic
        self.train_all = train_all or class_agnostic
        self.all_boxes = all_boxes or self.train_all

    def embed(self, reference: Tensor, chosen: Tensor) -> tuple[Tensor, Tensor | None]:
        """Content (B, N, C) and position, if fixed, of queries at boxes (B, N, 4), best first;
        ``chosen`` (B, N, C) are their tokens in the memory."""
        raise NotImplementedError

    def forward(
        self, memory: Tensor, tokens: FeatureTokens, head: ProposalHead, indices: Tensor | None
    ) -> Queries:
        """Choose the proposals (Deformable DETR, two-stage) and make queries of them.

        ``tokens`` are the encoder's input, ``memory`` (B, S, C) is its output; ``indices`` (B, N)
        of tokens are chosen instead of the best.
        """
        anchors, valid = token_anchors(tokens)
        projected = head.project(memory, valid)
        logits = full_precision(head.class_embed(projected))
        padding_mask = None
        if indices is None:
            indices, padding_mask = self.select(logits, tokens)
        rows = indices[..., None]
        if not self.all_boxes:
            projected, anchors = projected.take_along_dim(rows, 1), anchors.take_along_dim(rows, 1)
        boxes = chosen = head.box_logits(projected, anchors)
        if self.all_boxes:
            chosen = boxes.take_along_dim(rows, 1)
        if not self.train_all:
            logits, boxes = logits.take_along_dim(rows, 1), chosen
        reference = chosen.detach().sigmoid()
        content, position = self.embed(reference, memory.take_along_dim(rows, 1))
        prediction = Prediction(logits, boxes.sigmoid())
        return Queries(content, position, reference, padding_mask, indices, prediction)

    def select(self, logits: Tensor, tokens: FeatureTokens) -> tuple[Tensor, Tensor | None]:
        """Indices (B, N) of the best tokens by logits (B, S, K), and which of them are padding."""
        scores = logits[..., 0] if self.class_agnostic else logits.amax(-1)
        count = min(self.num_queries, max(tokens.num_valid))
        indices = scores.masked_fill(tokens.padding_mask, -torch.inf).topk(count, dim=1).indices
        # The token counts are known on the host, so this asks nothing of the device.
        if min(tokens.num_valid) >= count:
            return indices, None
        return indices, tokens.padding_mask.gather(1, indices)


class TwoStageQueries(ProposalQueries):
    """Content and position are embeddings of the proposal's box (Deformable DETR)."""

    #: Embeddings of ``embed_dim`` channels that are made of a box.
    num_embeddings = 2

    def __init__(self, *, embed_dim: int, **selection: Any) -> None:
        """``embed_dim`` of the decoder; ``selection`` see :class:`ProposalQueries`."""
        super().__init__(**selection)
        self.pos_trans = nn.Linear(embed_dim * 2, embed_dim * self.num_embeddings)
        self.pos_trans_norm = nn.LayerNorm(embed_dim * self.num_embeddings)
        nn.init.xavier_uniform_(self.pos_trans.weight)

    def embed(self, reference: Tensor, chosen: Tensor) -> tuple[Tensor, Tensor | None]:
        """Half of the channels of the embedded box is the position."""
        position, content = self._embed_box(reference).chunk(2, dim=-1)
        return content, position

    def _embed_box(self, reference: Tensor) -> Tensor:
        """Embed x, y, w and h in this order."""
        sine = sine_box_embedding(reference, self.pos_trans.in_features // 4)
        return self.pos_trans_norm(self.pos_trans(sine))


class TokenContentQueries(TwoStageQueries):
    """Content is the token itself, position embeds its box (Efficient DETR, Sparse DETR)."""

    num_embeddings = 1

    def embed(self, reference: Tensor, chosen: Tensor) -> tuple[Tensor, Tensor | None]:
        """The embedded box is the position; the content keeps its gradient."""
        return chosen, self._embed_box(reference)


class MixedQueries(ProposalQueries):
    """Content is learned for each rank, position follows the box (DINO, 3.4)."""

    def __init__(self, *, embed_dim: int, **selection: Any) -> None:
        """``embed_dim`` of the decoder; ``selection`` see :class:`ProposalQueries`."""
        super().__init__(**selection)
        self.tgt_embed = nn.Embedding(self.num_queries, embed_dim)
        nn.init.xavier_uniform_(self.tgt_embed.weight)

    def embed(self, reference: Tensor, chosen: Tensor) -> tuple[Tensor, Tensor | None]:
        """The first embeddings for every image; no fixed position."""
        return self.tgt_embed.weight[: chosen.shape[1]].expand_as(chosen), None


#: By the value of ``QUERY_SELECTION``.
PROPOSAL_QUERIES: dict[str, type[ProposalQueries]] = {
    "two_stage": TwoStageQueries,
    "token": TokenContentQueries,
    "mixed": MixedQueries,
}
