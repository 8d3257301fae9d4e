"""Tokens as proposals: their anchors, their scores and, of two-stage models, their boxes."""

from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from torch import Tensor, nn

from .box_ops import shift_logits, to_float32
from .heads import box_head, class_head
from .structures import FeatureTokens


class TokenHead(nn.Module):
    """Project encoder tokens and score their classes with a decoder's head (Focus-DETR, 3.3)."""

    def __init__(self, *, embed_dim: int, class_embed: nn.Module) -> None:
        """
        Args:
            embed_dim: channels C of the tokens.
            class_embed: class head, of another module.
        """
        super().__init__()
        # In a tuple, which registers no submodule: its parameters keep the name of their owner.
        self.shared_class_embed = (class_embed,)
        self.enc_output = nn.Linear(embed_dim, embed_dim)
        self.enc_output_norm = nn.LayerNorm(embed_dim)
        nn.init.xavier_uniform_(self.enc_output.weight)

    def project(self, memory: Tensor, valid: Tensor) -> Tensor:
        """Project tokens (B, S, C); those not ``valid`` (B, S) enter as zero."""
        return self.enc_output_norm(self.enc_output(memory.masked_fill(~valid[..., None], 0.0)))

    def predict_logits(self, features: Tensor) -> Tensor:
        """Class logits (B, N, K) of features (B, N, C), projected or not."""
        return to_float32(self.shared_class_embed[0](features))


class ProposalHead(TokenHead):
    """Score tokens with a head of its own, and make proposals (Deformable DETR, two-stage)."""

    @configurable
    def __init__(self, *, embed_dim: int, num_classes: int) -> None:
        """
        Args:
            embed_dim: channels C of the tokens.
            num_classes: rows K of the class head.
        """
        class_embed = class_head(embed_dim, num_classes)
        super().__init__(embed_dim=embed_dim, class_embed=class_embed)
        self.class_embed = class_embed
        self.bbox_embed = box_head(embed_dim, 0.0)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """Arguments of the constructor from ``MODEL.DETR``."""
        return {"embed_dim": cfg.MODEL.DETR.EMBED_DIM, "num_classes": cfg.MODEL.DETR.NUM_CLASSES}

    def box_logits(self, projected: Tensor, anchors: Tensor) -> Tensor:
        """Box logits (B, N, 4) of projected tokens (B, N, C) and their anchors' logits."""
        return shift_logits(self.bbox_embed(projected), anchors)


def token_anchors(tokens: FeatureTokens) -> tuple[Tensor, Tensor]:
    """A square anchor at each token, of 5 % of the image on the finest level and doubling: logits
    (B, S, 4), infinite (the box is 1, 1, 1, 1) where invalid, and validity (B, S): inside the image
    with all coordinates at least 0.01 from its border."""
    shapes = enumerate(tokens.spatial_shapes)
    sides = [tokens.centers.new_full((h * w, 2), 0.05 * 2.0**level) for level, (h, w) in shapes]
    anchors = torch.cat((tokens.centers, torch.cat(sides).expand_as(tokens.centers)), -1)
    valid = ((anchors > 0.01) & (anchors < 0.99)).all(-1) & ~tokens.padding_mask
    return torch.logit(anchors).masked_fill(~valid[..., None], float("inf")), valid
