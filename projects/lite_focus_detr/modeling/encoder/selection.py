"""Which tokens a selective encoder updates: budgets, choice, gathering and writing back."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor


def token_budgets(num_valid: Sequence[int], keep_ratio: float) -> tuple[int, ...]:
    """Tokens to keep of each image, at least one, from its un-padded tokens.

    In single precision, which is what the published code truncates.
    """
    ratio = np.float32(keep_ratio)
    return tuple(min(int(np.float32(count) * ratio) + 1, count) for count in num_valid)


def layer_counts(most: int, keep_ratios: Sequence[float]) -> list[int]:
    """Tokens of each layer if the first has ``most``: in proportion to falling keep ratios."""
    shares = [np.float32(ratio / keep_ratios[0]) for ratio in keep_ratios]
    return [max(1, int(share * np.float32(most))) for share in shares]


class TokenSelection(NamedTuple):
    """N chosen rows of each of B sequences."""

    indices: Tensor  #: (B, N), best first
    kept: Tensor | None  #: (B, N) bool, False for fillers beyond a budget; None: no fillers

    def first(self, count: int) -> "TokenSelection":
        """The ``count`` best."""
        kept = None if self.kept is None else self.kept[:, :count]
        return TokenSelection(self.indices[:, :count], kept)

    def gather(self, x: Tensor) -> Tensor:
        """The chosen rows (B, N, C) of x (B, S, C)."""
        return x.flatten(0, 1).index_select(0, self._flat(x)).view(*self.indices.shape, -1)

    def scatter(self, x: Tensor, rows: Tensor) -> Tensor:
        """A copy of x (B, S, C) with the chosen rows replaced by ``rows`` (B, N, C)."""
        rows = rows.to(x.dtype)
        if self.kept is not None:
            rows = torch.where(self.kept[..., None], rows, self.gather(x))
        return x.flatten(0, 1).index_copy(0, self._flat(x), rows.flatten(0, 1)).view_as(x)

    def _flat(self, x: Tensor) -> Tensor:
        """Indices (B * N,) into the rows of all sequences."""
        start = torch.arange(len(x), device=x.device) * x.shape[1]
        return (self.indices + start[:, None]).flatten()


def select_best(scores: Tensor, count: int, budgets: Sequence[int]) -> TokenSelection:
    """The ``count`` best of each row of ``scores`` (B, S), as far as the budgets go.

    Budgets are numbers of the host: no device is waited for.
    """
    kept = within_budget(count, budgets, scores.device) if min(budgets) < count else None
    return TokenSelection(scores.topk(count, dim=1).indices, kept)


def within_budget(count: int, budgets: Sequence[int], device: torch.device) -> Tensor:
    """Mask (B, count), True for the first ``budgets[b]`` places of each row."""
    places = torch.tensor(budgets).to(device, non_blocking=True)
    return torch.arange(count, device=device) < places[:, None]
