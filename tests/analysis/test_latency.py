import time
from types import SimpleNamespace

import pytest
import torch
from detectron2.modeling import build_model
from torch import nn

from lite_focus_detr.analysis.latency import PartTimer, fit_budget, median_seconds, part_seconds


@pytest.fixture
def model(tiny_config):
    cfg = tiny_config("dino")
    cfg.MODEL.META_ARCHITECTURE = "SparseDETR"
    return build_model(cfg)


@pytest.fixture
def clock(monkeypatch):
    """Seconds that only pass when a test says so."""
    now = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    return now


def test_the_median_leaves_out_the_first_run(clock):
    durations = iter([100.0, 3.0, 1.0, 2.0])

    def run():
        clock[0] += next(durations)

    assert median_seconds(run, rounds=3) == 2.0


@pytest.mark.parametrize(
    ("limit", "tried"), [(1.0, [1.0]), (0.35, [1.0, 0.7, 0.5, 0.4, 0.3]), (0.01, None)]
)
def test_the_budget_is_the_largest_that_keeps_within_the_time(model, clock, limit, tried):
    def run():
        clock[0] += model.encoder.keep_ratios[0]

    measured = fit_budget(model, run, limit)
    tried = tried or [1.0, 0.7, 0.5, 0.4, 0.3, 0.2, 0.1, 0.05]
    assert list(measured) == tried
    assert measured == pytest.approx({ratio: ratio for ratio in tried})
    assert model.encoder.keep_ratios == pytest.approx([tried[-1]] * 2)


def test_an_encoder_that_updates_all_tokens_has_no_budget(tiny_config):
    with pytest.raises(ValueError, match="DeformableEncoder updates all tokens"):
        fit_budget(build_model(tiny_config("dino")), lambda: None, 1.0)


class Clocked(nn.Module):
    """Takes the given seconds, another one in every run."""

    def __init__(self, clock, seconds):
        super().__init__()
        self.clock = clock
        self.seconds = list(seconds)

    def forward(self):
        self.clock[0] += self.seconds.pop(0)


def test_parts_are_timed_without_the_first_run(clock):
    parts = {
        "backbone": Clocked(clock, [100, 1, 5, 3]),
        "encoder": Clocked(clock, [100, 20, 40, 60]),
        "decoder": Clocked(clock, [100, 7, 7, 7]),
    }
    model = SimpleNamespace(device=torch.device("cpu"), **parts)

    def run():
        for part in parts.values():
            part()
        clock[0] += 0.5

    assert part_seconds(model, run, rounds=3) == {
        "backbone": 3,
        "encoder": 40,
        "decoder": 7,
        "total": 52.5,
    }
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in parts.values())


def test_the_time_of_a_part_adds_up_over_its_calls(clock):
    class Waits(nn.Module):
        def forward(self, seconds):
            clock[0] += seconds
            return seconds

    model = nn.ModuleDict({"encoder": Waits(), "decoder": Waits()})
    model.device = torch.device("cpu")
    with PartTimer(model, ["encoder"]) as timer:
        model["encoder"](2.0)
        model["decoder"](5.0)
        model["encoder"](1.5)
    model["encoder"](7.0)
    assert timer.seconds == {"encoder": 3.5}
