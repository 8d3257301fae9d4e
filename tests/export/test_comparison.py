import pytest

from lite_focus_detr.export.comparison import TOLERANCE, Comparison, format_comparisons

EXACT = Comparison((1, 3, 64, 96), 0.0, 0.0, 0.0, 0.0, 1.0, 5)


def test_deviations_up_to_the_tolerance_pass():
    assert EXACT.passed
    assert EXACT._replace(logits=TOLERANCE, boxes=TOLERANCE, choices=TOLERANCE).passed


@pytest.mark.parametrize("name", ["logits", "boxes", "choices", "scores"])
@pytest.mark.parametrize("deviation", [1.01e-4, float("nan"), float("inf")])
def test_a_larger_deviation_does_not_pass(name, deviation):
    assert not EXACT._replace(**{name: deviation}).passed


def test_a_single_detection_that_differs_does_not_pass():
    assert not EXACT._replace(agreement=0.99).passed


def test_the_table_has_a_row_for_each_batch():
    lines = format_comparisons([EXACT, EXACT._replace(batch=(2, 3, 8, 9))]).splitlines()
    assert len(lines) == 4
    assert "2x3x8x9" in lines[3]
