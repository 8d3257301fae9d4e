"""The decoder of all families: self-attention, deformable cross-attention, box refinement."""

import dataclasses
from collections.abc import Sequence
from typing import Any, Literal

from detectron2.config import CfgNode, configurable
from torch import Tensor, nn

from .attention import SampledAttention, build_attention
from .heads import MLP, DetectionHeads
from .position_encoding import sine_box_embedding
from .query_selectors import has_box_queries
from .structures import DecoderOutput, FeatureTokens, Prediction, Queries, SamplingPoints
from .transformer_layer import TransformerLayer, run_layer, xavier_matrices


class DecoderLayer(TransformerLayer):
    """Self-attention, cross-attention and feed-forward, each with residual and post-norm."""

    @configurable
    def __init__(self, *, cross_attn: SampledAttention, ffn_dim: int, dropout: float) -> None:
        """
        Args:
            cross_attn: attention to the memory; the self-attention has as many channels and heads.
            ffn_dim: see :class:`TransformerLayer`.
            dropout: as there, and of the weights of the self-attention.
        """
        embed_dim, num_heads = cross_attn.config.embed_dim, cross_attn.config.num_heads
        super().__init__(embed_dim=embed_dim, ffn_dim=ffn_dim, dropout=dropout)
        self.cross_attn = cross_attn
        self.norm1 = nn.LayerNorm(embed_dim)
        self.self_attn = nn.MultiheadAttention(embed_dim, num_heads, dropout, batch_first=True)
        self.norm2 = nn.LayerNorm(embed_dim)
        self.norm3 = nn.LayerNorm(embed_dim)
        xavier_matrices(self.self_attn)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """Arguments of the constructor from ``MODEL.DETR.DECODER``."""
        detr, decoder = cfg.MODEL.DETR, cfg.MODEL.DETR.DECODER
        return {
            "cross_attn": build_attention(detr, decoder),
            "ffn_dim": decoder.FFN_DIM,
            "dropout": decoder.DROPOUT,
        }

    def forward(
        self,
        content: Tensor,
        position: Tensor,
        reference_points: Tensor,
        memory: Tensor,
        tokens: FeatureTokens,
        attn_mask: Tensor | None,
        return_sampling: bool = False,
    ) -> tuple[Tensor, SamplingPoints | None]:
        """Update the content of queries; the second result is the sampling, if asked for.

        Args:
            content: (B, Q, C).
            position: (B, Q, C), added to queries and keys.
            reference_points: (B, Q, L, 2 or 4) relative to each level's padded map.
            memory: (B, S, C).
            tokens: has the padding and levels of the memory.
            attn_mask: (Q, Q) or (B * M, Q, Q) bool, True where a query must not see another.
            return_sampling: say where the cross-attention samples.
        """
        query = content + position
        attended = self.self_attn(query, query, content, attn_mask=attn_mask, need_weights=False)[0]
        content = self.norm2(content + self.dropout(attended))
        query, shapes = content + position, tokens.spatial_shapes
        value = self.cross_attn.project(memory, tokens.value_mask)
        sampling = None
        if return_sampling:
            sampling = self.cross_attn.sampling(query, reference_points, value, shapes)
        attended = self.cross_attn(query, reference_points, value, shapes)
        content = self.norm1(content + self.dropout(attended))
        return self.norm3(content + self.feed_forward(content)), sampling


@dataclasses.dataclass(frozen=True)
class DecoderConfig:
    """How positions, predictions and references of queries follow from layer to layer."""

    #: The position of a query is its embedded reference box (DAB-DETR), not a fixed one ...
    box_position: bool
    position_scale: bool  #: ... scaled by an MLP of the content from layer 2 on (DN-DETR)
    position_frame: Literal["padded", "image"]  #: ... relative to the padded batch or the image
    final_norm: bool  #: normalise hidden states before the heads, not for refinement (DINO)
    box_refine: bool  #: each layer moves the references of the next ...
    look_forward_twice: bool  #: ... and learns from its loss (DINO, 3.5)
    gradient_checkpointing: bool  #: see :func:`run_layer`


class Decoder(nn.Module):
    """A stack of layers whose references are refined from layer to layer."""

    @configurable
    def __init__(self, *, layers: Sequence[DecoderLayer], config: DecoderConfig) -> None:
        """
        Args:
            layers: in order.
            config: of what lies between them.
        """
        super().__init__()
        self.config = config
        self.layers = nn.ModuleList(layers)
        self.num_heads = layers[0].self_attn.num_heads
        dim = layers[0].cross_attn.config.embed_dim
        self.norm = nn.LayerNorm(dim) if config.final_norm else None
        # Names of the released weights.
        self.ref_point_head = MLP(2 * dim, dim, dim) if config.box_position else None
        self.query_scale = MLP(dim, dim, dim) if config.position_scale else None
        for mlp in (self.ref_point_head, self.query_scale):
            if mlp is not None:
                xavier_matrices(mlp)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """Arguments of the constructor from ``MODEL.DETR`` and its ``DECODER``."""
        detr, decoder = cfg.MODEL.DETR, cfg.MODEL.DETR.DECODER
        config = DecoderConfig(
            box_position=has_box_queries(cfg),
            position_scale=decoder.POSITION_SCALE,
            position_frame=decoder.POSITION_FRAME,
            final_norm=decoder.FINAL_NORM,
            box_refine=detr.BOX_REFINE,
            look_forward_twice=detr.LOOK_FORWARD_TWICE,
            gradient_checkpointing=detr.GRADIENT_CHECKPOINTING,
        )
        return {"layers": [DecoderLayer(cfg) for _ in range(decoder.NUM_LAYERS)], "config": config}

    def forward(
        self,
        queries: Queries,
        memory: Tensor,
        tokens: FeatureTokens,
        heads: DetectionHeads,
        return_sampling: bool = False,
    ) -> DecoderOutput:
        """Predict with every layer from the ``memory`` (B, S, C) of ``tokens``, and say where it is
        sampled if asked to. The ``heads`` are the detector's, because encoders share them."""
        output = DecoderOutput([], [])
        content, reference_points = queries.content, queries.reference_points
        # Boxes are predicted relative to `anchors`, layers look at `reference_points`: the same
        # numbers, but with look-forward-twice the anchors keep their gradient.
        anchors = reference_points
        attn_mask, checkpointing = self.attention_mask(queries), self.config.gradient_checkpointing
        for index, layer in enumerate(self.layers):
            reference_points_per_level = tokens.scale_to_levels(reference_points)
            position = queries.position
            if self.ref_point_head is not None:
                padded = self.config.position_frame == "padded"
                boxes = reference_points_per_level[:, :, 0] if padded else reference_points
                position = self.embed_boxes(index, content, boxes)
            arguments = (content, position, reference_points_per_level, memory, tokens, attn_mask)
            content, sampling = run_layer(checkpointing, layer, *arguments, return_sampling)
            if sampling is not None:
                output.sampling.append(sampling)
            hidden = content if self.norm is None else self.norm(content)
            boxes = heads.predict_boxes(index, hidden, anchors)
            output.predictions.append(Prediction(heads.predict_logits(index, hidden), boxes))
            if self.config.box_refine:
                if self.norm is not None or anchors is not reference_points:
                    boxes = heads.predict_boxes(index, content, reference_points)
                reference_points = boxes.detach()
                anchors = boxes if self.config.look_forward_twice else reference_points
        return output

    def embed_boxes(self, index: int, content: Tensor, boxes: Tensor) -> Tensor:
        """Position (B, Q, C) from reference boxes (B, Q, 4) and, for DN, the content."""
        assert self.ref_point_head is not None
        # The published heads take the coordinates in the order y, x, w, h.
        boxes = boxes[..., [1, 0, 2, 3]]
        position = self.ref_point_head(sine_box_embedding(boxes, content.shape[-1] // 2))
        if self.query_scale is not None and index > 0:
            position = position * self.query_scale(content)
        return position

    def attention_mask(self, queries: Queries) -> Tensor | None:
        """Hide slots without a query as well, so that an image does not depend on its batch."""
        if queries.padding_mask is None:
            return queries.attn_mask
        hidden = queries.padding_mask[:, None].expand(-1, queries.padding_mask.shape[1], -1)
        if queries.attn_mask is not None:
            hidden = hidden | queries.attn_mask
        return hidden.repeat_interleave(self.num_heads, dim=0)
