"""The encoder of Sparse DETR: tokens chosen by where the decoder will look."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode, configurable
from torch import Tensor

from ..attention_map import Sampling, attention_map
from ..heads import DetectionHeads, Prediction, ProposalHead
from ..targets import Targets
from ..tokens import FeatureTokens
from .base import ENCODER_REGISTRY, EncoderOutput
from .selection import select_best
from .selective import SelectiveEncoder, selection_arguments


@ENCODER_REGISTRY.register()
class SparseEncoder(SelectiveEncoder):
    """The same tokens in every layer, scored by a learned network (Sparse DETR, 3.2 and 3.3)."""

    needs_sampling = True
    carries_fillers = True

    @configurable
    def __init__(
        self, *, aux_heads: DetectionHeads | None, loss_weight: float, **selection: Any
    ) -> None:
        """``aux_heads`` detect from the tokens of all layers but the last, in training only;
        ``loss_weight`` of the scores; ``selection`` see :class:`SelectiveEncoder`."""
        super().__init__(**selection)
        self.aux_heads = aux_heads
        self.loss_weight = loss_weight

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """Arguments of the constructor from ``MODEL.SPARSE`` and ``MODEL.DETR.ENCODER``."""
        detr, sparse = cfg.MODEL.DETR, cfg.MODEL.SPARSE
        count = detr.ENCODER.NUM_LAYERS
        heads = None
        if sparse.AUX_HEADS:
            heads = DetectionHeads(
                embed_dim=detr.EMBED_DIM,
                num_classes=detr.NUM_CLASSES,
                num_layers=count - 1,
                share=False,
                size_bias=0.0,
                eps=detr.INVERSE_SIGMOID_EPS,
            )
        return {
            "keep_ratios": [sparse.KEEP_RATIO] * count,
            "frozen_values": False,
            "aux_heads": heads,
            "loss_weight": sparse.LOSS_WEIGHT,
            **selection_arguments(cfg, sparse, "joint"),
        }

    def forward(self, tokens: FeatureTokens, proposal_head: ProposalHead | None) -> EncoderOutput:
        """Encode, in training with a prediction from every layer but the last."""
        output = super().forward(tokens, proposal_head)
        if self.aux_heads is None or not self.training:
            return output
        anchors = output.aux["kept"][0].gather(output.aux["anchors"])
        predictions = []
        for index, rows in enumerate(output.aux["layers"][:-1]):
            boxes = (self.aux_heads.bbox_embed[index](rows) + anchors).sigmoid()
            predictions.append(Prediction(self.aux_heads.classify(index, rows), boxes))
        return output._replace(predictions=predictions)

    def losses(
        self,
        output: EncoderOutput,
        tokens: FeatureTokens,
        targets: Targets,
        sampling: Sequence[Sampling],
    ) -> dict[str, Tensor]:
        """``loss_dam``: the tokens that the decoder looks at most; see :class:`Encoder`."""
        logits, budgets = output.aux["foreground"], output.aux["budgets"]
        logits = torch.where(tokens.padding_mask, logits.min(), logits)
        attention = attention_map(sampling, tokens.spatial_shapes).sum(-1)
        attention = attention.masked_fill(tokens.padding_mask, -1.0)
        best = select_best(attention, max(budgets), budgets)
        zeros, ones = torch.zeros_like(attention), torch.ones_like(best.indices)
        wanted = best.scatter(zeros[..., None], ones[..., None])[..., 0]
        loss = F.multilabel_soft_margin_loss(logits, wanted)
        return {"loss_dam": self.loss_weight * loss}
