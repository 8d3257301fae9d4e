import itertools

import pytest
import torch
import torch.nn.functional as F

from lite_focus_detr.modeling.encoder.token_scorer import TokenScorer

SHAPES = ((6, 8), (3, 4), (2, 2))
STARTS = (0, 48, 60, 64)


def make(order):
    torch.manual_seed(0)
    return TokenScorer(embed_dim=16, num_levels=3, modulation=order).double()


@pytest.fixture
def projected():
    generator = torch.Generator().manual_seed(1)
    return torch.randn(2, 64, 16, dtype=torch.float64, generator=generator)


def level(x, index):
    return x[:, STARTS[index] : STARTS[index + 1]]


def test_without_modulation_each_level_is_scored_by_itself(projected):
    scorer = make("none")
    changed = projected.clone()
    level(changed, 0)[:] += torch.randn(16)
    before, after = scorer(projected, SHAPES), scorer(changed, SHAPES)
    assert not torch.equal(level(before, 0), level(after, 0))
    assert torch.equal(before[:, STARTS[1] :], after[:, STARTS[1] :])
    assert scorer.alpha is None


def test_a_joint_score_depends_on_the_mean_of_all_levels(projected):
    scorer = make("joint")
    changed = projected.clone()
    changed[:, 0] += torch.randn(16)
    assert not torch.equal(scorer(projected, SHAPES)[:, -1], scorer(changed, SHAPES)[:, -1])


@pytest.mark.parametrize(("order", "levels"), [("top_down", (2, 1, 0)), ("bottom_up", (0, 1, 2))])
def test_modulation_scales_a_level_by_the_scores_of_the_one_before(projected, order, levels):
    scorer = make(order)
    # The first LayerNorm removes a positive factor: only changes of the sign can be seen.
    scorer.alpha.data = torch.tensor([30.0, -40.0], dtype=torch.float64)
    scorer.layer2[-1].weight.data *= 10
    scores = scorer(projected, SHAPES)
    for step, (last, this) in enumerate(itertools.pairwise(levels)):
        coarse = level(scores, last).unflatten(1, (1, *SHAPES[last]))
        scale = F.interpolate(coarse, SHAPES[this], mode="bilinear", align_corners=True)
        factor = 1 + scorer.alpha[step] * scale.flatten(1)
        assert (factor < 0).any()
        assert (factor > 0).any()
        alone = make("none")
        alone.load_state_dict(scorer.state_dict(), strict=False)
        scaled = level(projected, this) * factor[..., None]
        expected = alone(scaled, (SHAPES[this],))
        torch.testing.assert_close(level(scores, this), expected)


@pytest.mark.parametrize("order", ["joint", "none"])
def test_a_score_depends_on_the_neighbourhood(projected, order):
    scorer = TokenScorer(embed_dim=16, num_levels=3, modulation=order, kernel_size=3).double()
    seen = []
    scorer.layer2[1].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    scorer(projected, SHAPES)
    # The same by a sum over shifted maps: tokens of a level differ by nothing but that.
    kernel, bias = scorer.neighbors.weight[:, 0], scorer.neighbors.bias
    hidden = scorer.layer1(projected)
    for index, (height, width) in enumerate(SHAPES):
        image = F.pad(level(hidden, index).unflatten(1, (height, width)), (0, 0, 1, 1, 1, 1))
        total = bias + sum(
            image[:, dy : dy + height, dx : dx + width] * kernel[:, dy, dx]
            for dy in range(3)
            for dx in range(3)
        )
        x = level(hidden, index) + F.gelu(total).flatten(1, 2)
        local = x[..., :8] @ scorer.layer2[0].weight[:, :8].T
        found = level(torch.cat(seen, 1), index)
        torch.testing.assert_close(found - found[:, :1], local - local[:, :1])


@pytest.mark.parametrize("order", ["top_down", "none", "joint"])
def test_scores_under_autocast_are_in_full_precision(projected, order):
    scorer = make(order).float()
    with torch.autocast("cpu", torch.bfloat16):
        scores = scorer(projected.float(), SHAPES)
    assert scores.dtype == torch.float32
    torch.testing.assert_close(scores, scorer(projected.float(), SHAPES), rtol=0.05, atol=0.05)
