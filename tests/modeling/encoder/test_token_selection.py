import numpy as np
import pytest
import torch

from lite_focus_detr.modeling.encoder.token_selection import (
    budget_mask,
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


def test_gathered_rows_are_the_chosen_ones(scores):
    x = torch.randn(3, 40, 8)
    selection = topk_tokens(scores, 10, (10, 10, 10))
    for image in range(3):
        assert torch.equal(selection.gather(x)[image], x[image][selection.indices[image]])


def test_only_rows_within_the_budget_are_written(scores):
    x, rows = torch.randn(3, 40, 8), torch.randn(3, 10, 8)
    budgets = (10, 4, 1)
    selection = topk_tokens(scores, 10, budgets)
    written = selection.scatter(x, rows)
    for image, budget in enumerate(budgets):
        expected = x[image].clone()
        expected[selection.indices[image, :budget]] = rows[image, :budget]
        assert torch.equal(written[image], expected)
    assert torch.equal(selection.first(5).within_budget, budget_mask(5, budgets, x.device))


def test_gather_and_scatter_have_the_gradients_of_a_permutation(scores):
    selection = topk_tokens(scores, 10, (10, 4, 1))
    x = torch.randn(3, 40, 2, dtype=torch.float64, requires_grad=True)
    rows = torch.randn(3, 10, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(selection.gather, (x,))
    assert torch.autograd.gradcheck(selection.scatter, (x, rows))
