"""How many tokens of each image a selective encoder updates, and which."""

from collections.abc import Sequence
from fractions import Fraction

import numpy as np
import torch
from torch import Tensor

from ..structures import FeatureTokens, TokenSelection


def require_keep_ratios(key: str, ratios: Sequence[float]) -> None:
    """Raise a ValueError that names the ``key`` for shares that cannot be, or that rise."""
    if sorted(ratios, reverse=True) != list(ratios) or not 0 < ratios[-1] <= ratios[0] <= 1:
        rule = "must lie in (0, 1] and not rise from layer to layer"
        raise ValueError(f"{key} {list(ratios)} {rule}")


def spread_keep_ratio(keep_ratio: float, configured: Sequence[float]) -> list[float]:
    """Keep ratios of the mean ``keep_ratio``, in (0, 1], for each of the ``configured`` ones: in
    proportion to these while that makes less, towards 1 in equal parts where it makes more."""
    if not 0 < keep_ratio <= 1:
        raise ValueError(f"the keep ratio is {keep_ratio}; it must lie in (0, 1]")
    mean = sum(configured) / len(configured)
    if keep_ratio <= mean:
        return [ratio * keep_ratio / mean for ratio in configured]
    step = (keep_ratio - mean) / (1 - mean)
    return [ratio + (1 - ratio) * step for ratio in configured]


def token_budgets(num_valid: Sequence[int], keep_ratio: float) -> tuple[int, ...]:
    """Share of the un-padded tokens of each image, at least one."""
    return tuple(min(_share(count, keep_ratio) + 1, count) for count in num_valid)


def tokens_per_layer(largest_budget: int, keep_ratios: Sequence[float]) -> list[int]:
    """Tokens of each layer, in proportion to keep ratios that do not rise from the first layer."""
    shares = [_share(largest_budget, ratio / keep_ratios[0]) for ratio in keep_ratios]
    return [max(1, share) for share in shares]


def _share(count: int, ratio: float) -> int:
    """A share of ``count`` in single precision, which is what the published code truncates."""
    if torch.compiler.is_compiling():
        # A graph serves many counts, and has no such arithmetic for them: the exact share. For a
        # few counts and ratios, such as 180 and 0.65, it is one more.
        numerator, denominator = _fraction(ratio)
        return count * numerator // denominator
    return int(np.float32(count) * np.float32(ratio))


def select_by_ratios(
    scores: Tensor, num_valid: Sequence[int], keep_ratios: Sequence[float]
) -> list[TokenSelection]:
    """The best tokens by scores (B, S) for each of the ratios, which do not rise: of an image its
    share of the ``num_valid`` tokens, whatever the other images of the batch have."""
    budgets = [token_budgets(num_valid, ratio) for ratio in keep_ratios]
    best = scores.topk(max(budgets[0]), dim=1).indices
    return [within_budgets(best[:, : max(x)], x) for x in budgets]


def select_from(start: int, tokens: FeatureTokens) -> TokenSelection:
    """All tokens from number ``start`` on, in their order; padding does not count as selected."""
    batch, length = tokens.padding_mask.shape
    indices = torch.arange(start, length, device=tokens.padding_mask.device).expand(batch, -1)
    padded = min(tokens.num_valid) < length
    return TokenSelection(indices, ~tokens.padding_mask[:, start:] if padded else None)


@torch.compiler.assume_constant_result
def _fraction(ratio: float) -> tuple[int, int]:
    """Small numbers: runtimes such as OpenVINO compute sizes in 32 bits."""
    return Fraction(ratio).limit_denominator(1000).as_integer_ratio()


def topk_tokens(scores: Tensor, count: int, budgets: Sequence[int]) -> TokenSelection:
    """The ``count`` best tokens by scores (B, S), within the image's budget."""
    return within_budgets(scores.topk(count, dim=1).indices, budgets)


def within_budgets(indices: Tensor, budgets: Sequence[int]) -> TokenSelection:
    """Tokens (B, N), best first, within the image's budget: no GPU sync for it."""
    count = indices.shape[1]
    within = budget_mask(count, budgets, indices.device) if min(budgets) < count else None
    return TokenSelection(indices, within)


def budget_mask(count: int, budgets: Sequence[int], device: torch.device) -> Tensor:
    """Mask (B, count), True for the first ``budgets[b]`` places of each row."""
    places = torch.tensor(budgets).to(device, non_blocking=True)
    return torch.arange(count, device=device) < places[:, None]
