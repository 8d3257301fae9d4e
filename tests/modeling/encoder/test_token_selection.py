import numpy as np
import pytest
import torch

from lite_focus_detr.modeling.encoder.token_selection import (
    token_budgets,
    tokens_per_layer,
    topk_tokens,
)


def test_budgets_are_truncated_in_single_precision_and_then_raised_by_one():
    # In double precision 180 * 0.65 is 117 and 340 * 0.65 is 221.
    assert token_budgets((180, 340, 1000), 0.65) == (117, 221, 651)


def test_budgets_never_exceed_the_tokens_of_an_image():
    assert token_budgets((1, 3, 426), 1.0) == (1, 3, 426)


def test_tokens_per_layer_follow_the_published_cascade():
    assert tokens_per_layer(214, [0.5, 0.4, 0.3, 0.3, 0.2, 0.1]) == [214, 171, 128, 128, 85, 42]
    assert tokens_per_layer(2, [0.5, 0.1]) == [2, 1]


@pytest.fixture
def scores():
    return torch.rand(3, 40, generator=torch.Generator().manual_seed(0))


def test_selection_is_the_best_first(scores):
    selection = topk_tokens(scores, 10, (10, 40, 12))
    expected = np.argsort(-scores.numpy(), 1)[:, :10]
    np.testing.assert_array_equal(selection.indices, expected)
    assert selection.within_budget is None
