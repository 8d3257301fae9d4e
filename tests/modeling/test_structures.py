"""Rows of selected tokens, taken from and put back into the sequence of all."""

import pytest
import torch

from lite_focus_detr.modeling.structures import TokenSelection

BUDGETS = (10, 4, 1)


@pytest.fixture
def selection():
    """Ten of forty tokens of each of three sequences, fewer within the budgets."""
    generator = torch.Generator().manual_seed(0)
    indices = torch.stack([torch.randperm(40, generator=generator)[:10] for _ in BUDGETS])
    return TokenSelection(indices, torch.arange(10) < torch.tensor(BUDGETS)[:, None])


def test_gathered_rows_are_the_chosen_ones(selection):
    x = torch.randn(3, 40, 8)
    for image in range(3):
        assert torch.equal(selection.gather(x)[image], x[image][selection.indices[image]])


def test_only_rows_within_the_budget_are_written(selection):
    x, rows = torch.randn(3, 40, 8), torch.randn(3, 10, 8)
    written = selection.scatter(x, rows)
    for image, budget in enumerate(BUDGETS):
        expected = x[image].clone()
        expected[selection.indices[image, :budget]] = rows[image, :budget]
        assert torch.equal(written[image], expected)


def test_without_a_budget_all_rows_are_written(selection):
    x, rows = torch.randn(3, 40, 8), torch.randn(3, 10, 8)
    written = TokenSelection(selection.indices, None).scatter(x, rows)
    for image, indices in enumerate(selection.indices):
        expected = x[image].clone()
        expected[indices] = rows[image]
        assert torch.equal(written[image], expected)


def test_the_first_are_the_best_with_their_part_of_the_budget(selection):
    first = selection.first(5)
    assert torch.equal(first.indices, selection.indices[:, :5])
    assert first.within_budget.sum(1).tolist() == [5, 4, 1]
    assert TokenSelection(selection.indices, None).first(5).within_budget is None


def test_gather_and_scatter_have_the_gradients_of_a_permutation(selection):
    x = torch.randn(3, 40, 2, dtype=torch.float64, requires_grad=True)
    rows = torch.randn(3, 10, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(selection.gather, (x,))
    assert torch.autograd.gradcheck(selection.scatter, (x, rows))


def test_the_tokens_of_an_image_are_those_within_its_budget(selection):
    for image, budget in enumerate(BUDGETS):
        assert torch.equal(selection.of_image(image), selection.indices[image, :budget])
        everything = selection._replace(within_budget=None)
        assert torch.equal(everything.of_image(image), selection.indices[image])
