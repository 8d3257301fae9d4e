"""``dev/measure_feed_forward.py``, whose numbers docs/export.md has, runs."""

import importlib.util
from pathlib import Path

import torch

from lite_focus_detr.optimization.detector import has_bfloat16, has_int8

SCRIPT = Path(__file__).resolve().parents[2] / "dev/measure_feed_forward.py"


def test_it_measures_every_precision_of_the_same_part(monkeypatch):
    spec = importlib.util.spec_from_file_location("measure_feed_forward", SCRIPT)
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    parts = script.make_parts(32)
    expected = ["float32", *["bfloat16"] * has_bfloat16(), *["int8"] * has_int8()]
    assert list(parts) == expected
    x = torch.randn(5, script.CHANNELS)
    results = [part(x).float() for part in parts.values()]
    for result in results[1:]:
        assert (result - results[0]).norm() < 0.05 * results[0].norm()
    # A clock that goes on by a second at every look.
    monkeypatch.setattr(script.time, "process_time", iter(range(100)).__next__)
    assert script.measure(parts, 4, 2) == dict.fromkeys(expected, 1)
