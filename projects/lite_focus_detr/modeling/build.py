"""Parts of the detector from ``cfg.MODEL.DETR``: the families are data."""

from collections.abc import Sequence
from typing import Any

from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from torch import nn

from ..config import has_box_queries
from .attention import build_attention
from .criterion import Criterion
from .decoder import Decoder, DecoderLayer
from .denoising import Denoising
from .encoder import Encoder
from .heads import DetectionHeads, ProposalHead
from .matcher import HungarianMatcher
from .queries import PROPOSAL_QUERIES, LearnedBoxQueries, LearnedPointQueries
from .tokens import TokenBuilder


def build_tokens(cfg: CfgNode, maps: Sequence[ShapeSpec]) -> TokenBuilder:
    """The neck for backbone maps, fine to coarse."""
    detr = cfg.MODEL.DETR
    return TokenBuilder(
        in_channels=[x.channels for x in maps],
        strides=[x.stride for x in maps],
        num_levels=detr.NUM_LEVELS,
        embed_dim=detr.EMBED_DIM,
        norm_groups=detr.NORM_GROUPS,
        **_arguments(detr.POSITION),
    )


def build_queries(cfg: CfgNode) -> nn.Module:
    """Query selection by ``QUERY_SELECTION`` and, if learned, ``REFERENCE``."""
    detr = cfg.MODEL.DETR
    size = {"num_queries": detr.NUM_QUERIES, "embed_dim": detr.EMBED_DIM}
    if detr.QUERY_SELECTION == "learned":
        if detr.REFERENCE == "point":
            return LearnedPointQueries(**size)
        return LearnedBoxQueries(**size, indicator=detr.DENOISING.TYPE == "plain")
    return PROPOSAL_QUERIES[detr.QUERY_SELECTION](
        **size,
        class_agnostic=detr.CLASS_AGNOSTIC_PROPOSALS,
        all_boxes=detr.PROPOSAL_BOXES == "all",
        train_all=detr.PROPOSAL_LOSS == "all",
    )


def build_decoder(cfg: CfgNode) -> Decoder:
    """The decoder of ``MODEL.DETR.DECODER``."""
    detr, decoder = cfg.MODEL.DETR, cfg.MODEL.DETR.DECODER
    layers = [
        DecoderLayer(
            cross_attn=build_attention(detr, decoder),
            embed_dim=detr.EMBED_DIM,
            num_heads=detr.NUM_HEADS,
            ffn_dim=decoder.FFN_DIM,
            dropout=decoder.DROPOUT,
            recompute=detr.GRADIENT_CHECKPOINTING,
        )
        for _ in range(decoder.NUM_LAYERS)
    ]
    return Decoder(
        layers=layers,
        embed_dim=detr.EMBED_DIM,
        box_position=has_box_queries(cfg),
        position_scale=decoder.POSITION_SCALE,
        padded_frame=decoder.POSITION_FRAME == "padded",
        final_norm=decoder.FINAL_NORM,
        box_refine=detr.BOX_REFINE,
        look_forward_twice=detr.LOOK_FORWARD_TWICE,
    )


def build_heads(cfg: CfgNode) -> DetectionHeads:
    """The heads of all decoder layers."""
    detr = cfg.MODEL.DETR
    return DetectionHeads(
        embed_dim=detr.EMBED_DIM,
        num_classes=detr.NUM_CLASSES,
        num_layers=detr.DECODER.NUM_LAYERS,
        share=detr.SHARE_HEADS,
        # Without proposals the first boxes start at 12 % of the image, not at half of it.
        size_bias=-2.0 if detr.QUERY_SELECTION == "learned" else 0.0,
        eps=detr.INVERSE_SIGMOID_EPS,
    )


def build_proposal_head(
    cfg: CfgNode, encoder: Encoder, heads: DetectionHeads
) -> ProposalHead | None:
    """The head that scores tokens, if the queries are made of them or the encoder needs it.

    An encoder whose queries are learned borrows the class head of the last decoder layer.
    """
    detr = cfg.MODEL.DETR
    learned = detr.QUERY_SELECTION == "learned"
    if learned and not encoder.needs_proposal_head:
        return None
    borrowed = heads.class_embed[-1] if learned else None
    return ProposalHead(embed_dim=detr.EMBED_DIM, num_classes=detr.NUM_CLASSES, borrowed=borrowed)


def build_denoising(cfg: CfgNode) -> Denoising | None:
    """The denoising of ``MODEL.DETR.DENOISING``, if any."""
    detr = cfg.MODEL.DETR
    options = _arguments(detr.DENOISING)
    kind = options.pop("type")
    if kind == "none":
        return None
    return Denoising(
        num_classes=detr.NUM_CLASSES,
        embed_dim=detr.EMBED_DIM,
        contrastive=kind == "contrastive",
        eps=detr.INVERSE_SIGMOID_EPS,
        **options,
    )


def build_criterion(cfg: CfgNode) -> Criterion:
    """Matcher and losses with the weights of ``MODEL.DETR.{MATCHER,LOSS}``."""
    detr = cfg.MODEL.DETR
    return Criterion(
        matcher=HungarianMatcher(**_arguments(detr.MATCHER)),
        class_agnostic_proposals=detr.CLASS_AGNOSTIC_PROPOSALS,
        **_arguments(detr.LOSS),
    )


def _arguments(node: CfgNode) -> dict[str, Any]:
    """The keys of a node as keyword arguments of the same names."""
    return {key.lower(): value for key, value in node.items()}
