"""Linear predictions of what layers would make of tokens that they do not update."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..structures import FeatureTokens
from ..tokens import level_maps, split_levels

#: Ridge of the least squares, relative to the mean square of a feature.
RIDGE = 1e-3
#: In the sums, of tokens that layers update, so that a level without others has a solution.
UPDATED_WEIGHT = 0.02
#: Tokens along a side of the neighbourhood that a prediction depends on.
KERNEL_SIZE = 3
#: Most tokens of a level of one batch that shortcuts are fitted to, drawn from all.
FITTED_TOKENS = 1000


class LinearShortcuts(nn.Module):
    """Features of tokens after each layer as a linear function of those before the first one.

    What a layer adds to the features of a transformer is to a large part linear in them (Din et
    al., Jump to Conclusions: Short-Cutting Transformers With Linear Transformations, 2023). A layer
    with attention adds what is around a token as well: the function also knows its neighbours and
    the token of the next coarser level at its place, through half as many channels, which the
    layers share. At the start nothing is added.
    """

    def __init__(self, *, embed_dim: int, num_layers: int, num_levels: int) -> None:
        """
        Args:
            embed_dim: channels C of the tokens, even.
            num_layers: of the encoder.
            num_levels: feature levels, each with functions of its own.
        """
        super().__init__()
        self.num_levels = num_levels
        self.embed_dim = embed_dim
        self.hidden_dim = hidden = embed_dim // 2
        self.neighbors = nn.ModuleList(
            nn.Conv2d(embed_dim, hidden, KERNEL_SIZE, padding=KERNEL_SIZE // 2, bias=False)
            for _ in range(num_levels)
        )
        self.coarser = nn.ModuleList(
            nn.Conv2d(embed_dim, hidden, 1, bias=False) for _ in range(num_levels - 1)
        )
        self.linears = nn.ModuleList(
            nn.Linear(hidden, embed_dim) for _ in range(num_layers * num_levels)
        )
        for parameter in self.linears.parameters():
            nn.init.zeros_(parameter)

    def look_around(self, tokens: FeatureTokens) -> list[Tensor]:
        """For each level (B, N, C / 2): what the functions of all layers take of its N tokens and
        of those around them."""
        maps = _maps(tokens)
        hidden = [conv(x) for conv, x in zip(self.neighbors, maps, strict=True)]
        for level, conv in enumerate(self.coarser):
            hidden[level] = hidden[level] + _at_finer_level(conv(maps[level + 1]), tokens, level)
        return [x.flatten(2).mT for x in hidden]

    def forward(self, layer: int, features: Tensor, around: Sequence[Tensor]) -> Tensor:
        """Features (B, S, C) after the ``layer``, from 0, of tokens with ``features`` (B, S, C),
        from what is ``around`` them; see :meth:`look_around`."""
        first = layer * self.num_levels
        pairs = zip(self.linears[first : first + self.num_levels], around, strict=True)
        return features + torch.cat([linear(level) for linear, level in pairs], dim=1)

    def solve(self, level: int, squares: Tensor, products: Tensor) -> None:
        """Take the best predictions of a level that half as many channels allow: least squares of
        reduced rank (Izenman 1975), for all layers at once.

        Args:
            level: from 0.
            squares: (K, K) in double precision, the weighted sum over tokens of the outer product
                of what is around them with itself; see :func:`_sources`.
            products: (K, L C) likewise, with what each of the L layers adds to them.
        """
        ridge = RIDGE * squares.diagonal().mean() * torch.eye(len(squares)).to(squares)
        full = torch.linalg.solve(squares + ridge, products)
        # The last of what is around a token is a one: it makes the sums of everything.
        count = squares[-1, -1]
        source, added = squares[-1] / count, products[-1] / count
        fitted = source @ full
        covariance = full.T @ squares @ full - count * torch.outer(fitted, fitted)
        basis = torch.linalg.eigh(covariance).eigenvectors[:, -self.hidden_dim :]
        narrow = (full @ basis)[:-1]
        bias = added - source[:-1] @ narrow @ basis.T

        dim, size = self.embed_dim, KERNEL_SIZE
        neighbors = narrow[: size**2 * dim].T.reshape(-1, dim, size, size)
        self.neighbors[level].load_state_dict({"weight": neighbors})
        if level < len(self.coarser):
            coarser = narrow[size**2 * dim :].T.reshape(-1, dim, 1, 1)
            self.coarser[level].load_state_dict({"weight": coarser})
        linears = list(self.linears)[level :: self.num_levels]
        parts = zip(linears, torch.split(basis, dim), torch.split(bias, dim), strict=True)
        for linear, weight, offset in parts:
            linear.load_state_dict({"weight": weight, "bias": offset})


def _maps(tokens: FeatureTokens) -> list[Tensor]:
    """The features of each level as a map (B, C, H, W), zero where padded."""
    features = tokens.features.masked_fill(tokens.padding_mask[..., None], 0.0)
    return level_maps(features, tokens.spatial_shapes)


def _at_finer_level(coarser: Tensor, tokens: FeatureTokens, level: int) -> Tensor:
    """A map (B, C, h, w) of the next coarser level at the tokens of a level, (B, C, H, W). How much
    a batch is padded has no influence, as it has where a map is made as large as another."""
    ratio = tokens.strides[level + 1] // tokens.strides[level]
    for dim, size in zip((-2, -1), tokens.spatial_shapes[level], strict=True):
        index = torch.arange(size, device=coarser.device) // ratio
        coarser = coarser.index_select(dim, index.clamp(max=coarser.shape[dim] - 1))
    return coarser


def _sources(maps: Sequence[Tensor], tokens: FeatureTokens, level: int, drawn: Tensor) -> Tensor:
    """What is around the ``drawn`` tokens (N) of a level, (B, N, K): their neighbourhood, the token
    of the next coarser level, if there is one, and a one; from the ``maps`` of all levels."""
    x, size = maps[level], KERNEL_SIZE
    windows = F.pad(x, [size // 2] * 4).unfold(2, size, 1).unfold(3, size, 1)
    row, column = drawn // x.shape[3], drawn % x.shape[3]
    parts = [windows[:, :, row, column].permute(0, 1, 3, 4, 2).flatten(1, 3)]
    if level + 1 < len(maps):
        parts.append(_at_finer_level(maps[level + 1], tokens, level).flatten(2)[..., drawn])
    return torch.cat((*parts, torch.ones_like(parts[0][:, :1])), 1).mT


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
    moments = _Moments(len(layers), skipped_tokens)
    hooks = [layer.register_forward_hook(moments.add) for layer in layers]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
    for level, (squares, products) in moments.sums.items():
        shortcuts.solve(level, squares, products)


class _Moments:
    """The sums of :meth:`LinearShortcuts.solve`, by level."""

    def __init__(self, num_layers: int, skipped_tokens: Callable[[FeatureTokens], Tensor]) -> None:
        """
        Args:
            num_layers: that are called one after another.
            skipped_tokens: see :func:`fitting`.
        """
        self.sums: dict[int, tuple[Tensor, Tensor]] = {}
        self.num_layers = num_layers
        self.skipped_tokens = skipped_tokens
        self.generator = torch.Generator().manual_seed(0)
        self.drawn: list[Tensor] = []
        self.added: list[list[Tensor]] = []

    def add(self, _: nn.Module, arguments: tuple[Any, Any, FeatureTokens], output: Tensor) -> None:
        """Remember what a call of a layer adds to some tokens; sum up after the last one."""
        tokens = arguments[2]
        levels = split_levels(output - tokens.features, tokens.spatial_shapes)
        if not self.added:
            self.drawn = [self._draw(level.shape[1]).to(output.device) for level in levels]
        pairs = zip(levels, self.drawn, strict=True)
        self.added.append([level[:, drawn] for level, drawn in pairs])
        if len(self.added) == self.num_layers:
            weights = torch.where(self.skipped_tokens(tokens), 1.0, UPDATED_WEIGHT)
            weights = weights.masked_fill(tokens.padding_mask, 0.0)[..., None]
            maps = _maps(tokens)
            for level, weight in enumerate(split_levels(weights, tokens.spatial_shapes)):
                self._sum_up(level, _sources(maps, tokens, level, self.drawn[level]), weight)
            self.added = []

    def _draw(self, count: int) -> Tensor:
        return torch.randperm(count, generator=self.generator)[:FITTED_TOKENS]

    def _sum_up(self, level: int, source: Tensor, weights: Tensor) -> None:
        source = source.flatten(0, 1).double()
        target = torch.cat([layer[level] for layer in self.added], -1).flatten(0, 1).double()
        weighted = (weights[:, self.drawn[level]].flatten(0, 1) * source).T
        squares, products = self.sums.get(level, (0, 0))
        self.sums[level] = squares + weighted @ source, products + weighted @ target
