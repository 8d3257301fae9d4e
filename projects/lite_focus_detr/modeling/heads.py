"""Prediction heads of the decoder."""

import math
from itertools import pairwise
from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from torch import Tensor, nn

from .box_ops import inverse_sigmoid, shift_logits, to_float32

PRIOR_PROBABILITY = 0.01


def class_head(embed_dim: int, num_classes: int) -> nn.Linear:
    """Linear class head whose bias starts at the logit of the focal-loss prior, 0.01."""
    head = nn.Linear(embed_dim, num_classes)
    nn.init.constant_(head.bias, -math.log((1 - PRIOR_PROBABILITY) / PRIOR_PROBABILITY))
    return head


class MLP(nn.Module):
    """Linear layers with ReLU between them."""

    def __init__(self, *dims: int) -> None:
        """
        Args:
            dims: channels of the input, of each hidden layer and of the output.
        """
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(*sizes) for sizes in pairwise(dims))

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., dims[0]) to (..., dims[-1])."""
        *hidden, last = self.layers
        for layer in hidden:
            x = layer(x).relu()
        return last(x)


def box_head(embed_dim: int, size_bias: float) -> MLP:
    """Three-layer box head that starts at zero shift and the logit ``size_bias`` of w and h."""
    head = MLP(embed_dim, embed_dim, embed_dim, 4)
    *_, weight, bias = head.parameters()
    nn.init.zeros_(weight)
    bias.data.copy_(torch.tensor([0.0, 0.0, size_bias, size_bias]))
    return head


class DetectionHeads(nn.Module):
    """Class and box heads of the decoder layers, shared or one pair per layer."""

    @configurable
    def __init__(
        self,
        *,
        embed_dim: int,
        num_classes: int,
        num_layers: int,
        share_heads: bool,
        size_bias: float,
        inverse_sigmoid_eps: float,
    ) -> None:
        """
        Args:
            embed_dim: channels C of the hidden states.
            num_classes: rows K of the class heads.
            num_layers: layers with predictions.
            share_heads: one pair of heads for all layers.
            size_bias: initial logit of the first layer's widths and heights.
            inverse_sigmoid_eps: clamp of the references' inverse sigmoid.
        """
        super().__init__()
        count = 1 if share_heads else num_layers
        self.class_embed = nn.ModuleList(class_head(embed_dim, num_classes) for _ in range(count))
        biases = [size_bias, *[0.0] * (count - 1)]
        self.bbox_embed = nn.ModuleList(box_head(embed_dim, bias) for bias in biases)
        self.num_classes = num_classes
        self.share_heads = share_heads
        self.inverse_sigmoid_eps = inverse_sigmoid_eps

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """Arguments of the constructor from ``MODEL.DETR``."""
        detr = cfg.MODEL.DETR
        return {
            "embed_dim": detr.EMBED_DIM,
            "num_classes": detr.NUM_CLASSES,
            "num_layers": detr.DECODER.NUM_LAYERS,
            "share_heads": detr.SHARE_HEADS,
            # Without proposals the first boxes start at 12 % of the image, not at half of it.
            "size_bias": -2.0 if detr.QUERY_SELECTION == "learned" else 0.0,
            "inverse_sigmoid_eps": detr.INVERSE_SIGMOID_EPS,
        }

    def predict_logits(self, layer: int, hidden: Tensor) -> Tensor:
        """Class logits (B, Q, K) of the hidden states (B, Q, C) of a decoder layer."""
        return to_float32(self.class_embed[0 if self.share_heads else layer](hidden))

    def predict_boxes(self, layer: int, hidden: Tensor, reference_points: Tensor) -> Tensor:
        """Boxes (B, Q, 4) of hidden states (B, Q, C), moved from references (B, Q, 2 or 4)."""
        shift = self.bbox_embed[0 if self.share_heads else layer](hidden)
        anchors = inverse_sigmoid(reference_points, self.inverse_sigmoid_eps)
        return shift_logits(shift, anchors).sigmoid()
