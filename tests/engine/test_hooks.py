from types import SimpleNamespace

import pytest
import torch
from detectron2.modeling import build_model
from detectron2.utils import comm
from detectron2.utils.events import EventStorage
from torch import nn

from lite_focus_detr.engine import BudgetHook, DetrTrainer, EMAHook
from lite_focus_detr.engine.hooks import Evaluation, RequireFinite, SeedSteps

DECAY = 0.9


def weights_of(steps: int) -> list[float]:
    return [float((t + 1) ** 2) for t in range(steps + 1)]


def run(hook: EMAHook, model: nn.Module, weights: list[float]) -> None:
    for weight in weights:
        nn.init.constant_(model.weight, weight)
        hook.after_step()


def closed_form(weights: list[float]) -> float:
    steps = len(weights) - 1
    recent = sum((1 - DECAY) * DECAY ** (steps - t) * weights[t] for t in range(1, steps + 1))
    return DECAY**steps * weights[0] + recent


def start(weight: float) -> tuple[nn.Module, EMAHook]:
    model = nn.Linear(1, 1).double()
    nn.init.constant_(model.weight, weight)
    hook = EMAHook(model=model, decay=DECAY)
    return model, hook


def test_the_average_is_the_exponentially_weighted_sum_of_all_weights():
    weights = weights_of(5)
    model, hook = start(0.0)
    nn.init.constant_(model.weight, weights[0])  # loaded after the hook was made
    hook.before_train()
    run(hook, model, weights[1:])
    assert abs(hook.average.module.weight.item() - closed_form(weights)) < 1e-12


def test_a_resumed_average_continues_as_if_it_had_not_been_interrupted():
    weights = weights_of(6)
    model, hook = start(weights[0])
    hook.before_train()
    run(hook, model, weights[1:4])
    resumed_model, resumed = start(weights[3])
    resumed.average.load_state_dict(hook.average.state_dict())
    resumed.before_train()
    run(resumed, resumed_model, weights[4:])
    assert abs(resumed.average.module.weight.item() - closed_form(weights)) < 1e-12


def test_buffers_are_copied_not_averaged():
    model = nn.BatchNorm1d(2)
    hook = EMAHook(model=model, decay=DECAY)
    hook.before_train()
    model.running_mean.fill_(7.0)
    hook.after_step()
    assert torch.equal(hook.average.module.running_mean, torch.full((2,), 7.0))


def random_numbers_of_step(seed, iteration):
    hook = SeedSteps(lambda: seed)
    hook.trainer = SimpleNamespace(iter=iteration)
    hook.before_step()
    return torch.rand(3).tolist()


def test_the_randomness_of_a_step_is_that_of_its_number_and_of_the_seed():
    first = random_numbers_of_step(1, 7)
    torch.rand(5)  # history
    assert random_numbers_of_step(1, 7) == first
    assert random_numbers_of_step(1, 8) != first
    assert random_numbers_of_step(2, 7) != first


def test_each_process_has_randomness_of_its_own(monkeypatch):
    first = random_numbers_of_step(1, 7)
    monkeypatch.setattr(comm, "get_rank", lambda: 1)
    assert random_numbers_of_step(1, 7) != first


@pytest.mark.parametrize(
    ("iteration", "last", "due"),
    [(4, -1, True), (4, 4, False), (9, 4, True), (3, -1, False), (19, 14, False)],
)
def test_an_evaluation_is_due_when_its_iteration_lacks_it_but_for_the_last(iteration, last, due):
    hook = Evaluation(5, dict)
    hook.trainer = SimpleNamespace(max_iter=20)
    hook.load_state_dict({"last": last})
    assert hook.is_due(iteration) is due


def test_without_a_period_no_evaluation_is_due():
    hook = Evaluation(0, dict)
    hook.trainer = SimpleNamespace(max_iter=20)
    assert not hook.is_due(4)


def test_an_evaluation_notes_its_iteration():
    hook = Evaluation(5, lambda: {"AP": 1.0})
    with EventStorage(9) as storage:
        hook.trainer = SimpleNamespace(iter=9, max_iter=20, storage=storage)
        hook.after_step()
    assert hook.state_dict() == {"last": 9}
    assert storage.latest()["AP"] == (1.0, 9)


@pytest.fixture
def selective(tiny_config):
    cfg = tiny_config("dino")
    cfg.MODEL.META_ARCHITECTURE = "FocusDETR"
    cfg.MODEL.FOCUS.KEEP_RATIOS = [0.5, 0.3]
    return build_model(cfg)


def test_iterations_take_the_largest_the_smallest_and_a_ratio_between(selective):
    hook = BudgetHook(model=selective, smallest=0.1, largest=0.6)
    seen = []
    for iteration in range(300):
        hook.trainer = SimpleNamespace(iter=iteration)
        hook.before_step()
        seen.append(sum(selective.encoder.keep_ratios) / 2)
        hook.after_step()
        assert selective.encoder.keep_ratios == [0.5, 0.3]
    assert seen[0::3] == pytest.approx([0.6] * 100)
    assert seen[1::3] == pytest.approx([0.1] * 100)
    assert 0.1 <= min(seen[2::3]) < 0.15
    assert 0.55 < max(seen[2::3]) <= 0.6
    assert seen[299] == pytest.approx(hook.keep_ratio(299))


def test_a_dense_encoder_cannot_be_trained_for_all_budgets(tiny_config):
    with pytest.raises(ValueError, match="DeformableEncoder updates all tokens"):
        BudgetHook(model=build_model(tiny_config("dino")), smallest=0.1, largest=0.6)


def test_a_training_for_all_budgets_has_the_hook_before_the_evaluation(make_args, setup, options):
    options += ["MODEL.META_ARCHITECTURE", "SparseDETR", "MODEL.SPARSE.AUX_HEADS", "False"]
    options += ["SOLVER.KEEP_RATIO_RANGE", "[0.1, 0.9]"]
    cfg = setup(make_args())
    trainer = DetrTrainer(cfg)
    (hook,) = [hook for hook in trainer._hooks if isinstance(hook, BudgetHook)]
    evaluation = trainer._hooks.index(trainer.evaluation)
    assert trainer._hooks.index(hook) < evaluation
    assert (hook.smallest, hook.largest) == (0.1, 0.9)
    assert hook.model is trainer.model


@pytest.mark.parametrize(
    ("period", "checked"), [(3, [2, 5, 7]), (4, [3, 7]), (1, list(range(8))), (100, [7])]
)
def test_what_is_saved_is_checked_before(period, checked):
    seen = []
    hook = RequireFinite(period=period, check=lambda: seen.append(hook.trainer.iter))
    for iteration in range(8):
        hook.trainer = SimpleNamespace(iter=iteration, max_iter=8)
        hook.after_step()
    assert seen == checked
