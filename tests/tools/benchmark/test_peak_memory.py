import ctypes
from pathlib import Path

import pytest
import torch

from lite_focus_detr.tools.benchmark import peak_memory

pytestmark = pytest.mark.slow

needs_linux = pytest.mark.skipif(not peak_memory.CLEAR_REFS.exists(), reason="needs Linux")


@needs_linux
def test_peak_memory_is_that_of_the_largest_moment():
    size = 200_000_000

    def step():
        for _ in range(3):
            torch.ones(size // 4).sum()

    assert peak_memory.peak_memory(step, "cpu") == pytest.approx(size, rel=0.2)


def make_workloads():
    """Steps that need 35 MB, after one that teaches glibc to keep blocks of up to 30 MB."""

    def step():
        first, kept = torch.ones(20_000_000 // 4), torch.ones(10_000_000 // 4)
        del first  # A hole that is too small for what follows.
        return kept, torch.ones(25_000_000 // 4)

    return {"teacher": lambda: torch.ones(30_000_000 // 4), "a": step, "b": step}


@needs_linux
@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="needs glibc")
def test_memory_does_not_depend_on_what_ran_before(monkeypatch):
    # The other process imports this module.
    monkeypatch.syspath_prepend(Path(__file__).parents[3])
    peaks = peak_memory.peak_memories(make_workloads, "cpu")
    assert list(peaks.values()) == pytest.approx([30e6, 35e6, 35e6], rel=0.02)
