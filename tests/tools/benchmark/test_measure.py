import os
import time

import pytest

from lite_focus_detr.tools.benchmark.measure import (
    Measurement,
    measure,
    operators,
    ratio_cells,
    with_operators,
)

PEAK_MEMORIES = "lite_focus_detr.tools.benchmark.measure.peak_memories"


def test_steps_take_turns_and_costs_are_medians(monkeypatch):
    order = []

    def step(name, waits):
        def run():
            order.append(name)
            time.sleep(next(waits))

        return run

    monkeypatch.setattr(PEAK_MEMORIES, lambda *_: {"a": 7, "b": None})
    steps = {"a": step("a", iter([0.3, 0.02, 0.0])), "b": step("b", iter([0.0] * 3))}
    measured = measure(lambda: steps, 3, "cpu")
    assert order == ["a", "b"] * 3
    assert 0.02 <= measured["a"].seconds < 0.1
    assert measured["b"].seconds < 0.02
    assert measured["a"].cpu_seconds < measured["a"].seconds
    assert measured["a"].peak_bytes == 7


@pytest.mark.parametrize("before", [None, "reference", "other"])
def test_the_kind_of_operators_is_that_of_the_environment_again_afterwards(monkeypatch, before):
    if before is None:
        monkeypatch.delenv("LITE_FOCUS_DETR_OPS", raising=False)
    else:
        monkeypatch.setenv("LITE_FOCUS_DETR_OPS", before)
    seen = []
    steps = {"step": lambda: seen.append(os.environ.get("LITE_FOCUS_DETR_OPS"))}
    for run in with_operators(lambda: steps, ["cpu", "reference"]).values():
        run()
    assert seen == [None, "reference"]
    with pytest.raises(ZeroDivisionError), operators("reference"):
        _ = 1 / 0
    assert os.environ.get("LITE_FOCUS_DETR_OPS") == before


def test_ratios_are_those_to_the_first():
    first = Measurement(seconds=0.1, cpu_seconds=0.2, peak_bytes=1_000_000)
    cost = Measurement(seconds=0.05, cpu_seconds=0.6, peak_bytes=4_000_000)
    assert ratio_cells(cost, first) == pytest.approx([50.0, 0.5, 3.0, 4.0, 4.0])
    unknown = cost._replace(peak_bytes=None)
    assert ratio_cells(unknown, first)[3:] == ratio_cells(cost, unknown)[3:] == ["-", "-"]
