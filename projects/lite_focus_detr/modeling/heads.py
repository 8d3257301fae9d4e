"""Prediction heads of the decoder and of the encoder's proposals."""

import math
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn

from .tokens import FeatureTokens

PRIOR_PROBABILITY = 0.01


class Prediction(NamedTuple):
    """Class logits and boxes of one set of queries."""

    logits: Tensor  #: (B, Q, K) before the sigmoid
    boxes: Tensor  #: (B, Q, 4) cxcywh in [0, 1] of the un-padded image


def inverse_sigmoid(x: Tensor, eps: float) -> Tensor:
    """Logit of probabilities, finite at 0 and 1.

    Unlike ``torch.logit`` it clamps numerator and denominator apart, as all published DETRs do.
    """
    x = x.clamp(0, 1)
    return torch.log(x.clamp(min=eps) / (1 - x).clamp(min=eps))


def full_precision(x: Tensor) -> Tensor:
    """Half precision to fp32; everything else as it is."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def class_head(embed_dim: int, num_classes: int) -> nn.Linear:
    """Linear class head whose bias starts at the logit of the focal-loss prior, 0.01."""
    head = nn.Linear(embed_dim, num_classes)
    nn.init.constant_(head.bias, -math.log((1 - PRIOR_PROBABILITY) / PRIOR_PROBABILITY))
    return head


def xavier_matrices(module: nn.Module) -> None:
    """Start the matrices of a module as all of a published transformer's are; not its vectors."""
    for parameter in module.parameters():
        if parameter.dim() > 1:
            nn.init.xavier_uniform_(parameter)


class MLP(nn.Module):
    """Linear layers with ReLU between them."""

    def __init__(self, *dims: int) -> None:
        """``dims``: channels of the input, of each hidden layer and of the output."""
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
    nn.init.zeros_(bias)
    nn.init.constant_(bias[2:], size_bias)
    return head


class DetectionHeads(nn.Module):
    """Class and box heads of the decoder layers, shared or one pair per layer."""

    def __init__(
        self,
        *,
        embed_dim: int,
        num_classes: int,
        num_layers: int,
        share: bool,
        size_bias: float,
        eps: float,
    ) -> None:
        """``share`` one pair for all layers; ``size_bias`` is the initial logit of the first
        layer's widths and heights, ``eps`` the clamp of the references' inverse sigmoid."""
        super().__init__()
        count = 1 if share else num_layers
        self.class_embed = nn.ModuleList(class_head(embed_dim, num_classes) for _ in range(count))
        self.bbox_embed = nn.ModuleList(
            box_head(embed_dim, size_bias if layer == 0 else 0.0) for layer in range(count)
        )
        self.share = share
        self.eps = eps

    def classify(self, layer: int, hidden: Tensor) -> Tensor:
        """Class logits (B, Q, K) of the hidden states (B, Q, C) of a decoder layer."""
        return full_precision(self.class_embed[0 if self.share else layer](hidden))

    def locate(self, layer: int, hidden: Tensor, reference: Tensor) -> Tensor:
        """Boxes (B, Q, 4) of a layer relative to references (B, Q, 2 or 4), all in [0, 1]."""
        shift = self.bbox_embed[0 if self.share else layer](hidden)
        return _shift(shift, inverse_sigmoid(reference, self.eps)).sigmoid()


def _shift(shift: Tensor, anchor: Tensor) -> Tensor:
    """Add point or box logits to a box shift; promotes, so that half precision ends in fp32."""
    return shift + nn.functional.pad(anchor, (0, shift.shape[-1] - anchor.shape[-1]))


class ProposalHead(nn.Module):
    """Score encoder tokens and turn them into proposals (Deformable DETR, two-stage)."""

    def __init__(
        self, *, embed_dim: int, num_classes: int, borrowed: nn.Module | None = None
    ) -> None:
        """``embed_dim`` channels of the tokens, ``num_classes`` rows of the class head; or a class
        head ``borrowed`` from another module, and no box head: scores without proposals."""
        super().__init__()
        self.enc_output = nn.Linear(embed_dim, embed_dim)
        self.enc_output_norm = nn.LayerNorm(embed_dim)
        nn.init.xavier_uniform_(self.enc_output.weight)
        if borrowed is None:
            self.class_embed = class_head(embed_dim, num_classes)
            self.bbox_embed = box_head(embed_dim, 0.0)
        else:
            # Not registered: its parameters keep one name.
            object.__setattr__(self, "class_embed", borrowed)

    def project(self, memory: Tensor, valid: Tensor) -> Tensor:
        """Project tokens (B, S, C); those not ``valid`` (B, S) enter as zero."""
        return self.enc_output_norm(self.enc_output(memory.masked_fill(~valid[..., None], 0.0)))

    def box_logits(self, projected: Tensor, anchors: Tensor) -> Tensor:
        """Box logits (B, N, 4) of projected tokens (B, N, C) and their anchors' logits."""
        return _shift(self.bbox_embed(projected), anchors)


def token_anchors(tokens: FeatureTokens) -> tuple[Tensor, Tensor]:
    """A square anchor at each token, of 5 % of the image at the finest level and doubling: logits
    (B, S, 4) cxcywh, infinite (the box is 1, 1, 1, 1) where invalid, and validity (B, S): inside
    the image with all coordinates at least 0.01 from its border."""
    sides = [
        tokens.centers.new_full((height * width, 2), 0.05 * 2.0**level)
        for level, (height, width) in enumerate(tokens.spatial_shapes)
    ]
    anchors = torch.cat((tokens.centers, torch.cat(sides).expand_as(tokens.centers)), -1)
    valid = ((anchors > 0.01) & (anchors < 0.99)).all(-1) & ~tokens.padding_mask
    return torch.logit(anchors).masked_fill(~valid[..., None], float("inf")), valid
