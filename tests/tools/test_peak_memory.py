import pytest
import torch

from lite_focus_detr.tools import peak_memory


@pytest.mark.skipif(not peak_memory._CLEAR.exists(), reason="needs Linux")
def test_peak_memory_is_that_of_the_largest_moment():
    size = 200_000_000

    def step():
        for _ in range(3):
            torch.ones(size // 4).sum()

    assert peak_memory.peak_memory(step, "cpu") == pytest.approx(size, rel=0.2)
