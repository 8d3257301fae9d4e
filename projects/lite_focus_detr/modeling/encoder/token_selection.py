"""How many tokens of each image a selective encoder updates, and which."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ..structures import TokenSelection


def token_budgets(num_valid: Sequence[int], keep_ratio: float) -> tuple[int, ...]:
    """A share of each image's tokens, at least one; truncated in single precision, as published."""
    ratio = np.float32(keep_ratio)
    return tuple(min(int(np.float32(count) * ratio) + 1, count) for count in num_valid)


def tokens_per_layer(largest_budget: int, keep_ratios: Sequence[float]) -> list[int]:
    """Tokens of each layer, in proportion to keep ratios that do not rise from the first layer."""
    shares = [np.float32(ratio / keep_ratios[0]) for ratio in keep_ratios]
    return [max(1, int(share * np.float32(largest_budget))) for share in shares]


def topk_tokens(scores: Tensor, count: int, budgets: Sequence[int]) -> TokenSelection:
    """The ``count`` best tokens by scores (B, S), within the image's budget: no GPU sync for it."""
    within = budget_mask(count, budgets, scores.device) if min(budgets) < count else None
    return TokenSelection(scores.topk(count, dim=1).indices, within)


def budget_mask(count: int, budgets: Sequence[int], device: torch.device) -> Tensor:
    """Mask (B, count), True for the first ``budgets[b]`` places of each row."""
    places = torch.tensor(budgets).to(device, non_blocking=True)
    return torch.arange(count, device=device) < places[:, None]
