import numpy as np
import pytest
import torch

from lite_focus_detr.modeling.encoder.token_selection import (
    select_by_ratios,
    spread_keep_ratio,
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


@pytest.mark.parametrize("keep_ratio", [0.05, 0.2, 0.3, 0.5, 0.9, 1.0])
def test_a_spread_ratio_is_the_mean_of_ratios_that_do_not_rise(keep_ratio):
    ratios = spread_keep_ratio(keep_ratio, [0.5, 0.3, 0.1])
    assert np.mean(ratios) == pytest.approx(keep_ratio)
    assert ratios == sorted(ratios, reverse=True)
    assert 0 < ratios[-1] <= ratios[0] <= 1


def test_spread_ratios_are_those_configured_at_their_mean_and_all_one_at_one():
    assert spread_keep_ratio(0.3, [0.5, 0.3, 0.1]) == pytest.approx([0.5, 0.3, 0.1])
    assert spread_keep_ratio(1.0, [0.5, 0.3, 0.1]) == pytest.approx([1.0, 1.0, 1.0])
    assert spread_keep_ratio(0.15, [0.5, 0.3, 0.1]) == pytest.approx([0.25, 0.15, 0.05])
    assert spread_keep_ratio(0.65, [0.5, 0.3, 0.1]) == pytest.approx([0.75, 0.65, 0.55])
    assert spread_keep_ratio(0.4, [1.0, 1.0]) == pytest.approx([0.4, 0.4])
    assert spread_keep_ratio(1.0, [1.0, 1.0]) == [1.0, 1.0]


@pytest.mark.parametrize("keep_ratio", [0.0, -0.1, 1.1])
def test_a_ratio_that_is_none_cannot_be_spread(keep_ratio):
    with pytest.raises(ValueError, match=r"must lie in \(0, 1\]"):
        spread_keep_ratio(keep_ratio, [0.5])


def test_ratios_choose_the_best_of_each_image_whatever_the_others_have(scores):
    valid = (10, 40, 25)
    scores = scores.masked_fill(torch.arange(40) >= torch.tensor(valid)[:, None], float("-inf"))
    selections = select_by_ratios(scores, valid, (0.5, 0.25))
    for ratio, selection in zip((0.5, 0.25), selections, strict=True):
        for image, count in enumerate(valid):
            kept = selection.indices[image, selection.within_budget[image]]
            expected = np.argsort(-scores[image].numpy())[: int(ratio * count) + 1]
            np.testing.assert_array_equal(kept, expected)


def test_a_graph_has_exact_budgets_for_every_count():
    def budget(x):
        return x.new_zeros(token_budgets((x.shape[0],), 0.65)[0])

    torch.compiler.reset()
    compiled = torch.compile(budget, backend="eager", dynamic=True, fullgraph=True)
    sizes = [len(compiled(torch.zeros(count))) for count in (180, 340, 1001, 10)]
    # Single precision makes 117 and 221 of the first two.
    assert sizes == [118, 222, 651, 7]
