"""Where the decoder's queries come from: learned, from the best proposals, or mixed."""

import dataclasses
from typing import Any, Literal

import torch
from detectron2.config import CfgNode, configurable
from torch import Tensor, nn

from .position_encoding import sine_box_embedding
from .proposals import ProposalHead, token_anchors
from .structures import FeatureTokens, Prediction, Queries, TokenSelection


def has_box_queries(cfg: CfgNode) -> bool:
    """Whether the position of a query is its reference box (DINO, DN), so that it can be noised."""
    detr = cfg.MODEL.DETR
    learned_boxes = detr.QUERY_SELECTION == "learned" and detr.REFERENCE == "box"
    return learned_boxes or detr.QUERY_SELECTION == "mixed"


class LearnedPointQuerySelector(nn.Module):
    """Learned content and position; the reference point is read off the position."""

    @configurable
    def __init__(self, *, num_queries: int, embed_dim: int) -> None:
        """
        Args:
            num_queries: Q.
            embed_dim: channels C of the decoder.
        """
        super().__init__()
        self.query_embed = nn.Embedding(num_queries, embed_dim * 2)
        self.reference_points = nn.Linear(embed_dim, 2)
        nn.init.xavier_uniform_(self.reference_points.weight)
        nn.init.zeros_(self.reference_points.bias)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """Arguments of the constructor from ``MODEL.DETR``."""
        return {"num_queries": cfg.MODEL.DETR.NUM_QUERIES, "embed_dim": cfg.MODEL.DETR.EMBED_DIM}

    def forward(self, memory: Tensor, *_: object) -> Queries:
        """The same queries for every image of ``memory`` (B, S, C)."""
        position, content = self.query_embed.weight.expand(memory.shape[0], -1, -1).chunk(2, dim=-1)
        # References address pixels: they are not rounded to half precision.
        with torch.autocast(memory.device.type, enabled=False):
            reference_points = self.reference_points(position).sigmoid()
        return Queries(content, position, reference_points)


class LearnedBoxQuerySelector(nn.Module):
    """Learned content and anchor boxes (DAB-DETR)."""

    @configurable
    def __init__(self, *, num_queries: int, embed_dim: int, indicator: bool) -> None:
        """
        Args:
            num_queries: Q.
            embed_dim: channels C of the decoder.
            indicator: the last channel is zero here and one in plain denoising queries.
        """
        super().__init__()
        self.num_indicators = int(indicator)
        # Names of the released weights.
        self.tgt_embed = nn.Embedding(num_queries, embed_dim - self.num_indicators)
        self.refpoint_embed = nn.Embedding(num_queries, 4)
        # Anchors of any place and size; contents are learned from nothing.
        nn.init.zeros_(self.tgt_embed.weight)
        anchors = torch.rand(num_queries, 4).logit().clamp(-3.0, 3.0)
        self.refpoint_embed.weight.data.copy_(anchors)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """Arguments of the constructor from ``MODEL.DETR``."""
        detr = cfg.MODEL.DETR
        sizes = {"num_queries": detr.NUM_QUERIES, "embed_dim": detr.EMBED_DIM}
        return {**sizes, "indicator": detr.DENOISING.TYPE == "plain"}

    def forward(self, memory: Tensor, *_: object) -> Queries:
        """The same queries for every image of ``memory`` (B, S, C)."""
        content = nn.functional.pad(self.tgt_embed.weight, (0, self.num_indicators))
        boxes = self.refpoint_embed.weight.sigmoid()
        content, boxes = (x.expand(memory.shape[0], -1, -1) for x in (content, boxes))
        return Queries(content, None, boxes)


@dataclasses.dataclass(frozen=True)
class ProposalConfig:
    """How proposals are selected and trained."""

    embed_dim: int  #: channels C of the decoder
    num_queries: int  #: tokens to select per image, Q
    class_agnostic: bool  #: score tokens by row 0 of the class head, else by the best class
    proposal_boxes: Literal["selected", "all"]  #: tokens whose boxes are predicted
    #: Tokens whose proposals are trained; of class-agnostic ones always all.
    proposal_loss: Literal["selected", "all"]


class ProposalQuerySelector(nn.Module):
    """Queries at the best-scored tokens; subclasses give them content (and position)."""

    @configurable
    def __init__(self, config: ProposalConfig) -> None:
        """
        Args:
            config: of the selection.
        """
        super().__init__()
        self.config = config
        self.train_all = config.proposal_loss == "all" or config.class_agnostic
        self.predict_all = config.proposal_boxes == "all" or self.train_all

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """Arguments of the constructor from ``MODEL.DETR``."""
        detr = cfg.MODEL.DETR
        config = ProposalConfig(
            embed_dim=detr.EMBED_DIM,
            num_queries=detr.NUM_QUERIES,
            class_agnostic=detr.CLASS_AGNOSTIC_PROPOSALS,
            proposal_boxes=detr.PROPOSAL_BOXES,
            proposal_loss=detr.PROPOSAL_LOSS,
        )
        return {"config": config}

    def embed(self, boxes: Tensor, selected: Tensor) -> tuple[Tensor, Tensor | None]:
        """Content and, if it is fixed, position (B, N, C) of queries, from the boxes (B, N, 4) of
        the proposals, best first, and their tokens (B, N, C) in the memory."""
        raise NotImplementedError

    def forward(
        self,
        memory: Tensor,
        tokens: FeatureTokens,
        proposal_head: ProposalHead,
        proposal_indices: Tensor | None,
    ) -> Queries:
        """Make queries of proposals (Deformable DETR, two-stage) from the ``memory`` (B, S, C) of
        ``tokens``: of those with ``proposal_indices`` (B, Q), else of the best."""
        anchors, valid = token_anchors(tokens)
        projected = proposal_head.project(memory, valid)
        logits = proposal_head.predict_logits(projected)
        indices, padding_mask = proposal_indices, None
        if indices is None:
            indices, padding_mask = self.select(logits, tokens)
        chosen = TokenSelection(indices, None)
        if self.predict_all:
            boxes = proposal_head.box_logits(projected, anchors)
            selected = chosen.gather(boxes)
        else:
            projected, anchors = chosen.gather(projected), chosen.gather(anchors)
            boxes = selected = proposal_head.box_logits(projected, anchors)
        if not self.train_all:
            logits, boxes = chosen.gather(logits), selected
        reference_points = selected.detach().sigmoid()
        content, position = self.embed(reference_points, chosen.gather(memory))
        proposals = Prediction(logits, boxes.sigmoid())
        return Queries(content, position, reference_points, padding_mask, indices, proposals)

    def select(self, logits: Tensor, tokens: FeatureTokens) -> tuple[Tensor, Tensor | None]:
        """Indices (B, N) of the best tokens by logits (B, S, K), and which of them are padding."""
        scores = logits[..., 0] if self.config.class_agnostic else logits.amax(-1)
        count = min(self.config.num_queries, max(tokens.num_valid))
        indices = scores.masked_fill(tokens.padding_mask, -torch.inf).topk(count, dim=1).indices
        # Token counts are Python ints: this needs no GPU sync.
        if min(tokens.num_valid) >= count:
            return indices, None
        return indices, tokens.padding_mask.gather(1, indices)


class TwoStageQuerySelector(ProposalQuerySelector):
    """Content and position are embeddings of the proposal's box (Deformable DETR)."""

    #: Embeddings of ``embed_dim`` channels that are made of a box.
    num_embeddings = 2

    @configurable
    def __init__(self, config: ProposalConfig) -> None:
        """
        Args:
            config: of the selection.
        """
        super().__init__(config)
        channels = config.embed_dim * self.num_embeddings
        # Names of the released weights.
        self.pos_trans = nn.Linear(config.embed_dim * 2, channels)
        self.pos_trans_norm = nn.LayerNorm(channels)
        nn.init.xavier_uniform_(self.pos_trans.weight)

    def embed(self, boxes: Tensor, selected: Tensor) -> tuple[Tensor, Tensor | None]:
        """Half of the channels of the embedded box is the position."""
        position, content = self.embed_boxes(boxes).chunk(2, dim=-1)
        return content, position

    def embed_boxes(self, boxes: Tensor) -> Tensor:
        """Embed x, y, w and h of boxes (B, N, 4), in this order."""
        sine = sine_box_embedding(boxes, self.config.embed_dim // 2)
        return self.pos_trans_norm(self.pos_trans(sine))


class TokenContentQuerySelector(TwoStageQuerySelector):
    """Content is the token itself, position embeds its box (Efficient DETR, Sparse DETR)."""

    num_embeddings = 1

    def embed(self, boxes: Tensor, selected: Tensor) -> tuple[Tensor, Tensor | None]:
        """The embedded box is the position; the content keeps its gradient."""
        return selected, self.embed_boxes(boxes)


class MixedQuerySelector(ProposalQuerySelector):
    """Content is learned for each rank, position follows the box (DINO, 3.4)."""

    @configurable
    def __init__(self, config: ProposalConfig) -> None:
        """
        Args:
            config: of the selection.
        """
        super().__init__(config)
        # Name of the released weights.
        self.tgt_embed = nn.Embedding(config.num_queries, config.embed_dim)
        nn.init.xavier_uniform_(self.tgt_embed.weight)

    def embed(self, boxes: Tensor, selected: Tensor) -> tuple[Tensor, Tensor | None]:
        """The first embeddings for every image; no fixed position."""
        return self.tgt_embed.weight[: selected.shape[1]].expand_as(selected), None


#: By the value of ``QUERY_SELECTION`` or, if that is ``learned``, of ``REFERENCE``.
QUERY_SELECTORS = {
    "point": LearnedPointQuerySelector,
    "box": LearnedBoxQuerySelector,
    "two_stage": TwoStageQuerySelector,
    "token_content": TokenContentQuerySelector,
    "mixed": MixedQuerySelector,
}


def build_query_selector(cfg: CfgNode) -> nn.Module:
    """The selector of ``MODEL.DETR.QUERY_SELECTION`` and, if learned, ``REFERENCE``."""
    detr = cfg.MODEL.DETR
    learned = detr.QUERY_SELECTION == "learned"
    return QUERY_SELECTORS[detr.REFERENCE if learned else detr.QUERY_SELECTION](cfg)
