"""The decoder of all families: self-attention, deformable cross-attention, box refinement."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from .attention import SampledAttention
from .heads import MLP, DetectionHeads, Prediction, xavier_matrices
from .layer import TransformerLayer
from .position_encoding import sine_box_embedding
from .queries import Queries
from .tokens import FeatureTokens


class DecoderLayer(TransformerLayer):
    """Self-attention, cross-attention and feed-forward, each with residual and post-norm."""

    def __init__(
        self, *, cross_attn: SampledAttention, embed_dim: int, num_heads: int, **feed_forward: Any
    ) -> None:
        """``cross_attn`` over the memory; the rest see :class:`TransformerLayer`."""
        super().__init__(embed_dim=embed_dim, **feed_forward)
        dropout = self.dropout.p
        self.cross_attn = cross_attn
        self.norm1 = nn.LayerNorm(embed_dim)
        self.self_attn = nn.MultiheadAttention(embed_dim, num_heads, dropout, batch_first=True)
        self.norm2 = nn.LayerNorm(embed_dim)
        self.norm3 = nn.LayerNorm(embed_dim)
        xavier_matrices(self.self_attn)

    def forward(
        self,
        content: Tensor,
        position: Tensor,
        reference_points: Tensor,
        memory: Tensor,
        tokens: FeatureTokens,
        blocked: Tensor | None,
    ) -> Tensor:
        """Update ``content`` (B, Q, C), whose ``position`` (B, Q, C) is added to queries and keys.

        ``reference_points`` (B, Q, L, 2 or 4) are relative to each level's padded map; ``tokens``
        has the padding and levels of ``memory`` (B, S, C); ``blocked``, (Q, Q) or (B * M, Q, Q)
        bool, is True where a query must not see another.
        """
        query = content + position
        attended = self.self_attn(query, query, content, attn_mask=blocked, need_weights=False)[0]
        content = self.norm2(content + self.dropout(attended))
        attended = self.cross_attn(content + position, reference_points, memory, tokens)
        content = self.norm1(content + self.dropout(attended))
        return self.norm3(content + self.feed_forward(content))


class Decoder(nn.Module):
    """A stack of layers whose references are refined from layer to layer."""

    def __init__(
        self,
        *,
        layers: Sequence[DecoderLayer],
        embed_dim: int,
        box_position: bool,
        position_scale: bool,
        padded_frame: bool,
        final_norm: bool,
        box_refine: bool,
        look_forward_twice: bool,
    ) -> None:
        """``box_position``: the position of a query is its embedded reference box (DAB-DETR), not
        a fixed one, ``position_scale``: scaled by an MLP of the content from layer 2 on (DN-DETR),
        ``padded_frame``: relative to the padded batch. ``final_norm``: normalise hidden states
        before the heads, not for refinement (DINO). ``box_refine``: each layer moves the reference
        of the next, ``look_forward_twice``: and learns from its loss (DINO, 3.5)."""
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.num_heads = layers[0].self_attn.num_heads
        self.norm = nn.LayerNorm(embed_dim) if final_norm else None
        self.ref_point_head = MLP(2 * embed_dim, embed_dim, embed_dim) if box_position else None
        self.query_scale = MLP(embed_dim, embed_dim, embed_dim) if position_scale else None
        for mlp in (self.ref_point_head, self.query_scale):
            if mlp is not None:
                xavier_matrices(mlp)
        self.padded_frame = padded_frame
        self.box_refine = box_refine
        self.look_forward_twice = look_forward_twice

    def forward(
        self,
        queries: Queries,
        memory: Tensor,
        tokens: FeatureTokens,
        heads: DetectionHeads,
        blocked: Tensor | None = None,
    ) -> list[Prediction]:
        """The prediction of every layer for ``queries`` that look at ``memory`` (B, S, C).

        ``tokens`` is the encoder's input, for masks and shapes; ``blocked`` (Q, Q) bool is True
        where a query must not see another.
        """
        predictions = []
        content, reference = queries.content, queries.reference
        # Boxes are predicted relative to `anchor`, layers look at `reference`: the same numbers,
        # but with look-forward-twice the anchor keeps its gradient.
        anchor = reference
        blocked = self._block_padding(blocked, queries.padding_mask)
        for index, layer in enumerate(self.layers):
            levels = tokens.to_levels(reference)
            position = queries.position
            if self.ref_point_head is not None:
                boxes = levels[:, :, 0] if self.padded_frame else reference
                position = self._embed_reference(index, content, boxes)
            content = layer(content, position, levels, memory, tokens, blocked)
            hidden = content if self.norm is None else self.norm(content)
            boxes = heads.locate(index, hidden, anchor)
            predictions.append(Prediction(heads.classify(index, hidden), boxes))
            if self.box_refine:
                same = self.norm is None and anchor is reference
                refined = boxes if same else heads.locate(index, content, reference)
                reference = refined.detach()
                anchor = refined if self.look_forward_twice else reference
        return predictions

    def _embed_reference(self, index: int, content: Tensor, boxes: Tensor) -> Tensor:
        """Position (B, Q, C) from reference boxes (B, Q, 4) and, for DN, the content."""
        assert self.ref_point_head is not None
        # The published heads take the coordinates in the order y, x, w, h.
        ordered = boxes[..., [1, 0, 2, 3]]
        position = self.ref_point_head(sine_box_embedding(ordered, content.shape[-1] // 2))
        if self.query_scale is not None and index > 0:
            position = position * self.query_scale(content)
        return position

    def _block_padding(self, blocked: Tensor | None, padding_mask: Tensor | None) -> Tensor | None:
        """Hide slots without a query, so that an image does not depend on its batch."""
        if padding_mask is None:
            return blocked
        hidden = padding_mask[:, None].expand(-1, padding_mask.shape[1], -1)
        if blocked is not None:
            hidden = hidden | blocked
        return hidden.repeat_interleave(self.num_heads, dim=0)
