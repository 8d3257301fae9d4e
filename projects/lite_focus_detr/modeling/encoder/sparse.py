"""The encoder of Sparse DETR: tokens chosen by where the decoder will look."""

from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode, configurable
from torch import Tensor

from ... import ops
from ..heads import DetectionHeads
from ..proposals import TokenHead, token_anchors
from ..structures import EncoderOutput, FeatureTokens, Prediction, Sampling, Targets, TokenSelection
from .base import ENCODER_REGISTRY
from .dual_attention import ObjectRule
from .layer import EncoderLayer
from .selective import SelectiveEncoder, SelectiveParts, build_selective_parts
from .token_selection import token_budgets, topk_tokens

#: Of what the scores learn, the proposals' part relative to that of the decoder's attention.
PROPOSALS_SHARE = 0.5


@ENCODER_REGISTRY.register()
class SparseEncoder(SelectiveEncoder):
    """The same tokens in every layer, scored by a learned network (Sparse DETR, 3.2 and 3.3)."""

    needs_sampling = True
    carries_fillers = True
    training_only = ("aux_heads",)
    choices: ClassVar = {
        "MODEL.SPARSE.OBJECT_SCORE": ("logit", "probability"),
        "MODEL.SPARSE.TARGET": ("most_attended", "attention"),
    }
    minimum_values: ClassVar = {
        "MODEL.SPARSE.OBJECT_TOKENS": 0,
        "MODEL.SPARSE.LOSS_WEIGHT": 0,
        "MODEL.SPARSE.SCORER_KERNEL_SIZE": 1,
    }

    @configurable
    def __init__(
        self,
        *,
        parts: SelectiveParts,
        aux_heads: DetectionHeads | None,
        target: Literal["most_attended", "attention"],
        loss_weight: float,
    ) -> None:
        """
        Args:
            parts: of the selection.
            aux_heads: detect from the tokens of all layers but the last, in training only.
            target: what the scoring network learns: which tokens the decoder looks at most, or how
                its attention is shared among them.
            loss_weight: of the scoring network's loss, at least 0.
        """
        super().__init__(parts)
        self.aux_heads = aux_heads
        self.target = target
        self.loss_weight = loss_weight

    @staticmethod
    def add_config(cfg: CfgNode) -> None:
        """Add ``MODEL.SPARSE`` with the defaults of the released model."""
        cfg.MODEL.SPARSE = sparse = CfgNode()
        # Share of an image's tokens that every encoder layer updates.
        sparse.KEEP_RATIO = 0.3
        # Train every encoder layer but the last with class and box heads of its own.
        sparse.AUX_HEADS = True
        # The scores learn which tokens the decoder looks at most, as many as are kept
        # (most_attended, as published), or how it shares its attention among all, and the tokens
        # that become queries (attention).
        sparse.TARGET = "most_attended"
        # Tokens along a side of the neighbourhood that a score depends on, odd; 1: as published.
        sparse.SCORER_KERNEL_SIZE = 1
        # Weight of the loss of the scoring network.
        sparse.LOSS_WEIGHT = 1.0
        # The dual attention of Focus-DETR (its Table 11: 300), see MODEL.FOCUS; 0: none.
        sparse.OBJECT_TOKENS = 0
        # As in MODEL.FOCUS.
        sparse.OBJECT_SCORE = "logit"
        # Likewise.
        sparse.SHORTCUTS = False

    @staticmethod
    def validate_config(cfg: CfgNode) -> None:
        """See :meth:`Encoder.validate_config`."""
        sparse, attention = cfg.MODEL.SPARSE, cfg.MODEL.DETR.DECODER.ATTENTION
        if not 0 < sparse.KEEP_RATIO <= 1:
            ratio = sparse.KEEP_RATIO
            raise ValueError(f"MODEL.SPARSE.KEEP_RATIO is {ratio}; it must lie in (0, 1]")
        if sparse.SCORER_KERNEL_SIZE % 2 == 0:
            raise ValueError(
                f"MODEL.SPARSE.SCORER_KERNEL_SIZE is {sparse.SCORER_KERNEL_SIZE}; it must be odd"
            )
        if attention != "deformable":
            raise ValueError(
                f"SparseDETR learns from MODEL.DETR.DECODER.ATTENTION deformable, not {attention}"
            )

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """Arguments of the constructor from ``MODEL.SPARSE`` and ``MODEL.DETR.ENCODER``."""
        sparse, num_layers = cfg.MODEL.SPARSE, cfg.MODEL.DETR.ENCODER.NUM_LAYERS
        aux_heads = None
        if sparse.AUX_HEADS:
            options = {"num_layers": num_layers - 1, "share_heads": False, "size_bias": 0.0}
            aux_heads = DetectionHeads(cfg, **options)
        ratios = [sparse.KEEP_RATIO] * num_layers
        layers = [EncoderLayer(cfg) for _ in ratios]
        objects = ObjectRule(count=sparse.OBJECT_TOKENS, score=sparse.OBJECT_SCORE)
        parts = build_selective_parts(
            cfg,
            layers,
            ratios,
            objects,
            value="updated",
            modulation="joint",
            shortcuts=sparse.SHORTCUTS,
            kernel_size=sparse.SCORER_KERNEL_SIZE,
        )
        loss = {"target": sparse.TARGET, "loss_weight": sparse.LOSS_WEIGHT}
        return {"parts": parts, "aux_heads": aux_heads, **loss}

    def forward(self, tokens: FeatureTokens, proposal_head: TokenHead | None) -> EncoderOutput:
        """Encode, in training with a prediction from every layer but the last."""
        output = super().forward(tokens, proposal_head)
        if self.aux_heads is None or not self.training:
            return output
        trace = output.trace
        assert trace is not None
        anchors = trace.kept[0].gather(token_anchors(tokens)[0])
        predictions = []
        for index, features in enumerate(trace.features[:-1]):
            boxes = (self.aux_heads.bbox_embed[index](features) + anchors).sigmoid()
            predictions.append(Prediction(self.aux_heads.predict_logits(index, features), boxes))
        return output._replace(predictions=predictions)

    def losses(
        self, output: EncoderOutput, tokens: FeatureTokens, targets: Targets, sampling: Sampling
    ) -> dict[str, Tensor]:
        """``loss_dam``: what the decoder looks at, as ``target`` says; see :class:`Encoder`."""
        assert output.trace is not None
        logits, padding = output.trace.foreground, tokens.padding_mask
        attention = decoder_attention(sampling, tokens)
        if self.target == "attention":
            attention = attention.masked_fill(padding, 0.0)
            loss = attention_loss(logits, attention, output.proposal_indices, padding)
        else:
            most = self.most_attended(attention.masked_fill(padding, -1.0), tokens)
            logits = torch.where(padding, logits.min(), logits)
            loss = F.multilabel_soft_margin_loss(logits, most.mark(attention))
        return {"loss_dam": self.loss_weight * loss}

    def most_attended(self, attention: Tensor, tokens: FeatureTokens) -> TokenSelection:
        """As many tokens with the most of the ``attention`` (B, S) as are kept."""
        # Where all tokens are updated, all would be to be found: as many as are configured.
        ratios = self.keep_ratios if self.keep_ratios[0] < 1 else self.configured_keep_ratios
        budgets = token_budgets(tokens.num_valid, ratios[0])
        return topk_tokens(attention, max(budgets), budgets)


def attention_loss(
    logits: Tensor, attention: Tensor, proposal_indices: Tensor | None, padding_mask: Tensor
) -> Tensor:
    """Cross-entropy of the shares of tokens in the decoder's attention, which the proposals are
    given ``PROPOSALS_SHARE`` more of, and in what they score.

    Args:
        logits: (B, S) scores.
        attention: (B, S), at least 0, that the tokens get, padded ones none.
        proposal_indices: (B, Q) tokens that became queries, which count as attended to as well;
            None: there are none.
        padding_mask: (B, S) bool, True for tokens without a share.
    """
    shares = attention / attention.sum(1, keepdim=True)
    if proposal_indices is not None:
        count = proposal_indices.shape[1]
        each = torch.full(proposal_indices.shape, PROPOSALS_SHARE / count).to(shares)
        shares = shares.scatter_add(1, proposal_indices, each)
    log_shares = logits.masked_fill(padding_mask, float("-inf")).log_softmax(1)
    return -(shares * log_shares.masked_fill(padding_mask, 0)).sum(1).mean()


def decoder_attention(sampling: Sampling, tokens: FeatureTokens) -> Tensor:
    """Attention (B, S) that the tokens get from all queries in all heads and decoder layers."""
    locations = torch.cat([x.locations for x in sampling], dim=1)
    weights = torch.cat([x.weights for x in sampling], dim=1)
    return ops.attention_map(locations, weights, tokens.spatial_shapes).sum(-1)
