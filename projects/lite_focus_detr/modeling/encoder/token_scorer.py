"""Foreground scores of tokens, from which selective encoders choose."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..box_ops import to_float32
from ..proposals import TokenHead, token_anchors
from ..structures import FeatureTokens, SpatialShapes
from ..tokens import level_maps, split_levels
from ..transformer_layer import xavier_matrices


class TokenScorer(nn.Module):
    """Foreground logit of every token, from itself and the mean of its level (Sparse DETR, 3.2).

    In Focus-DETR (3.2) the scores of a level modulate the features of the next; its weights were
    trained so, although the first LayerNorm removes the factor but for its sign.
    """

    def __init__(
        self, *, embed_dim: int, num_levels: int, modulation: str, kernel_size: int = 1
    ) -> None:
        """
        Args:
            embed_dim: channels C of the tokens, a multiple of 4.
            num_levels: feature levels L.
            modulation: the scores of a level scale the next, ``top_down`` or ``bottom_up``;
                ``none``: each level by itself; ``joint``: all as one map (Sparse DETR).
            kernel_size: tokens along a side of the neighbourhood that a score also depends on,
                odd; 1: none, as published. At the border of an image it may be padding.
        """
        super().__init__()
        self.modulation = modulation
        linear = nn.Linear(embed_dim, embed_dim)
        self.layer1 = nn.Sequential(nn.LayerNorm(embed_dim), linear, nn.GELU())
        half, quarter = embed_dim // 2, embed_dim // 4
        linears = (nn.Linear(embed_dim, half), nn.Linear(half, quarter), nn.Linear(quarter, 1))
        self.layer2 = nn.Sequential(linears[0], nn.GELU(), linears[1], nn.GELU(), linears[2])
        self.neighbors = None
        if kernel_size > 1:
            self.neighbors = nn.Conv2d(
                embed_dim, embed_dim, kernel_size, padding=kernel_size // 2, groups=embed_dim
            )
        xavier_matrices(self)
        self.alpha = None
        if modulation in ("top_down", "bottom_up"):
            self.alpha = nn.Parameter(torch.empty(num_levels - 1).uniform_(-0.3, 0.3))

    def forward(self, projected: Tensor, spatial_shapes: SpatialShapes) -> Tensor:
        """Logits (B, S) of tokens (B, S, C) as the proposal head projects them, padded ones too."""
        if self.modulation == "joint":
            return self._score(projected, spatial_shapes)
        levels = split_levels(projected, spatial_shapes)
        turn = -1 if self.modulation == "top_down" else 1
        shapes = spatial_shapes[::turn]
        scores: list[Tensor] = []
        for step, x in enumerate(levels[::turn]):
            if self.alpha is not None and step > 0:
                last = scores[-1].view(-1, 1, *shapes[step - 1])
                scale = F.interpolate(last, shapes[step], mode="bilinear", align_corners=True)
                x = x * (1 + self.alpha[step - 1] * scale.flatten(1)[..., None])
            scores.append(self._score(x, shapes[step : step + 1]))
        return torch.cat(scores[::turn], dim=1)

    def _score(self, x: Tensor, shapes: SpatialShapes) -> Tensor:
        """Logits (B, N) of the tokens (B, N, C) of maps of these ``shapes``, which share a mean."""
        x = self.layer1(x)
        if self.neighbors is not None:
            maps = [self.neighbors(level).flatten(2) for level in level_maps(x, shapes)]
            x = x + F.gelu(torch.cat(maps, 2)).mT
        local, context = x.chunk(2, dim=-1)
        first = self.layer2[0]
        assert isinstance(first, nn.Linear)
        # W [local; mean] + b = W_1 local + (W_2 mean + b): the second term is that of all tokens.
        for_local, for_context = first.weight.chunk(2, dim=1)
        shared = F.linear(context.mean(1, keepdim=True), for_context, first.bias)
        hidden = F.linear(local, for_local) + shared
        return to_float32(self.layer2[1:](hidden)[..., 0])


def score_tokens(scorer: TokenScorer, tokens: FeatureTokens, proposal_head: TokenHead) -> Tensor:
    """Foreground logits (B, S) of all tokens as the proposal head projects them."""
    valid = token_anchors(tokens)[1]
    projected = proposal_head.project(tokens.features + tokens.position, valid)
    logits: Tensor = scorer(projected, tokens.spatial_shapes)
    return logits
