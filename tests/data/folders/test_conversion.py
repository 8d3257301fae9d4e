"""Corners of boxes after conversion; the library that is needed."""

import sys

import numpy as np
import pytest

from lite_focus_detr.data.folders.conversion import supervision, whole_pixels


@pytest.mark.parametrize("decimals", [5, 6, 8])
def test_corners_survive_the_rounding_of_relative_numbers(decimals):
    random = np.random.default_rng(0)
    for width, height in ((640, 480), (97, 4000)):
        for _ in range(200):
            x1, x2 = sorted(random.choice(width + 1, 2, replace=False).tolist())
            y1, y2 = sorted(random.choice(height + 1, 2, replace=False).tolist())
            cx, w = (round(v / width, decimals) for v in ((x1 + x2) / 2, x2 - x1))
            cy, h = (round(v / height, decimals) for v in ((y1 + y2) / 2, y2 - y1))
            box = [(cx - w / 2) * width, (cy - h / 2) * height, w * width, h * height]
            assert whole_pixels(box, width, height) == [x1, y1, x2 - x1, y2 - y1]


def test_corners_between_pixels_stay():
    assert whole_pixels([1.5, 2.25, 3.1, 4], 100, 100) == pytest.approx([1.5, 2.25, 3.1, 4])


def test_a_missing_library_is_named_with_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "supervision", None)
    with pytest.raises(ValueError, match=r"supervision: pip install 'lite-focus-detr\[data\]'"):
        supervision()
