import torch
from torch import nn

from lite_focus_detr.engine import EMAHook

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
