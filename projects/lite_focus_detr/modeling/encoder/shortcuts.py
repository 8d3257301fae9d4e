"""Linear predictions of what layers would make of tokens that they do not update."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ..structures import FeatureTokens, SpatialShapes

#: Ridge of the least squares, relative to the mean square of a feature.
RIDGE = 1e-3
#: In the sums, of tokens that layers update, so that a level without others has a solution.
UPDATED_WEIGHT = 0.02


class LinearShortcuts(nn.Module):
    """Features of tokens after each layer as a linear function of those before the first one.

    What a layer adds to the features of a transformer is to a large part linear in them (Din et
    al., Jump to Conclusions: Short-Cutting Transformers With Linear Transformations, 2023). At the
    start nothing is added.
    """

    def __init__(self, *, embed_dim: int, num_layers: int, num_levels: int) -> None:
        """
        Args:
            embed_dim: channels C of the tokens.
            num_layers: of the encoder.
            num_levels: feature levels, each with functions of its own.
        """
        super().__init__()
        self.num_levels = num_levels
        count = num_layers * num_levels
        self.linears = nn.ModuleList(nn.Linear(embed_dim, embed_dim) for _ in range(count))
        for parameter in self.parameters():
            nn.init.zeros_(parameter)

    def forward(self, layer: int, features: Tensor, spatial_shapes: SpatialShapes) -> Tensor:
        """Features (B, S, C) after the ``layer``, from 0, of ``features`` (B, S, C)."""
        levels = torch.split(features, [height * width for height, width in spatial_shapes], 1)
        first = layer * self.num_levels
        pairs = zip(self.linears[first : first + self.num_levels], levels, strict=True)
        return features + torch.cat([linear(level) for linear, level in pairs], dim=1)

    def solve(self, layer: int, level: int, moments: Tensor) -> None:
        """Take the best prediction for one layer and level.

        Args:
            layer: from 0.
            level: from 0.
            moments: (C + 1, 2 C + 1) in double precision: of the features with a one behind them,
                the weighted sum over tokens of their outer product with themselves, and with what
                the layers add to them.
        """
        count = moments.shape[0]
        squares, products = moments[:, :count], moments[:, count:]
        ridge = RIDGE * squares.diagonal().mean() * torch.eye(count).to(squares)
        solution = torch.linalg.solve(squares + ridge, products).T
        linear = self.linears[layer * self.num_levels + level]
        linear.load_state_dict({"weight": solution[:, :-1], "bias": solution[:, -1]})


@contextmanager
def fitting(
    layers: Sequence[nn.Module],
    shortcuts: LinearShortcuts,
    skipped_tokens: Callable[[FeatureTokens], Tensor],
) -> Iterator[None]:
    """Fit shortcuts to the encoder layers that are run within this block, in evaluation mode.

    Args:
        layers: of a dense encoder, called in order with queries, value and tokens, as
            :class:`EncoderLayer` is.
        shortcuts: for as many layers, and the levels of the tokens.
        skipped_tokens: says which tokens (B, S), bool, will take the shortcuts; the others count
            little.
    """
    moments = _Moments(skipped_tokens)
    hooks = [
        layer.register_forward_hook(partial(moments.add, index))
        for index, layer in enumerate(layers)
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
    for (layer, level), sums in moments.sums.items():
        shortcuts.solve(layer, level, sums)


class _Moments:
    """The sums of :meth:`LinearShortcuts.solve`, by layer and level."""

    def __init__(self, skipped_tokens: Callable[[FeatureTokens], Tensor]) -> None:
        """
        Args:
            skipped_tokens: see :func:`fitting`.
        """
        self.sums: dict[tuple[int, int], Tensor] = {}
        self.skipped_tokens = skipped_tokens
        self.weights: Tensor

    def add(
        self, layer: int, _: nn.Module, arguments: tuple[Any, Any, FeatureTokens], output: Tensor
    ) -> None:
        """Add what a call of a layer shows; the weights of the first one are those of all."""
        tokens = arguments[2]
        if layer == 0:
            weights = torch.where(self.skipped_tokens(tokens), 1.0, UPDATED_WEIGHT)
            self.weights = weights.masked_fill(tokens.padding_mask, 0.0)[..., None].double()
        ones = torch.ones_like(tokens.features[..., :1])
        source = torch.cat((tokens.features, ones), dim=-1).double()
        both = torch.cat((source, output - tokens.features), dim=-1)
        lengths = [height * width for height, width in tokens.spatial_shapes]
        parts = (torch.split(x, lengths, 1) for x in (self.weights * source, both))
        for level, (x, y) in enumerate(zip(*parts, strict=True)):
            sums = torch.einsum("bsi,bsj->ij", x, y)
            self.sums[layer, level] = self.sums.get((layer, level), 0) + sums
