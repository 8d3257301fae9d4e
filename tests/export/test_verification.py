import pytest
import torch

from lite_focus_detr.export.verification import ReplayedChoices

SCORES = torch.tensor([[0.1, 0.9, 0.9, 0.3]])


def test_equal_scores_may_be_in_another_order():
    with ReplayedChoices([torch.tensor([[2, 1]])]) as replay:
        values, indices = SCORES.topk(2, dim=1)
    assert indices.tolist() == [[2, 1]]
    assert torch.equal(values, SCORES[:, 1:3])
    assert replay.deficit == 0.0


def test_a_choice_that_is_not_the_best_shows():
    with ReplayedChoices([torch.tensor([[1, 3]])]) as replay:
        torch.topk(SCORES, 2)
    assert replay.deficit == pytest.approx(0.6)


def test_a_token_that_is_chosen_twice_shows():
    with ReplayedChoices([torch.tensor([[1, 2, 2]])]) as replay:
        SCORES.topk(3)
    assert replay.deficit == pytest.approx(0.6)


def test_masked_scores_are_equal_to_each_other():
    with ReplayedChoices([torch.tensor([[0, 2]])]) as replay:
        torch.tensor([[1.0, -torch.inf, -torch.inf]]).topk(2)
    assert replay.deficit == 0.0


@pytest.mark.parametrize("indices", [[], [torch.tensor([[1, 2, 3]])]])
def test_another_number_of_choices_is_an_error(indices):
    with pytest.raises(ValueError, match="as many"), ReplayedChoices(indices):
        SCORES.topk(2)
