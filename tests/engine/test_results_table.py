"""The results of an evaluation in a few lines."""

import math

import pytest

from lite_focus_detr.engine import results_table
from lite_focus_detr.engine.results_table import format_result_line, format_results, show_results

BOX = {"AP": 31.44, "AP50": 60.0, "AP75": 28.05, "APs": math.nan, "APm": 30.0, "APl": 0.0}
CLASSES = {"AP-red cell": 40.0, "AP-white cell": 22.88}


def test_the_table():
    results = {"bbox": BOX | CLASSES | {"F1": 68.9, "threshold": 0.314}}
    assert format_results(results, "cells_val").splitlines() == [
        "Results on cells_val:",
        "  AP    AP50    AP75    APs    APm    APl",
        "31.4    60.0    28.1      -   30.0    0.0",
        "F1 is greatest, 68.9, at the confidence 0.31",
        "AP by class: red cell 40.0  white cell 22.9",
    ]


def test_classes_are_shown_in_lines_of_five_up_to_twenty():
    def table(count):
        classes = {f"AP-class{i}": float(i) for i in range(count)}
        return format_results({"bbox": BOX | classes}).splitlines()

    assert len(table(20)) == 3 + 4
    assert len(table(21)) == len(table(1)) == 3


def test_several_data_sets_have_a_table_each_and_nothing_has_none():
    two = {"a": {"bbox": BOX}, "b": {"bbox": BOX}}
    assert [line for line in format_results(two).splitlines() if "on" in line] == [
        "Results on a:",
        "Results on b:",
    ]
    assert format_results({}) == ""
    assert format_result_line({}) == "no results for boxes"


def test_the_line():
    assert format_result_line({"bbox": BOX | CLASSES}) == (
        "AP 31.4  AP50 60.0  AP75 28.1  APs -  APm 30.0  APl 0.0"
    )


@pytest.mark.parametrize(
    ("iterations", "first"),
    [(20, "evaluation after 20: AP 31.4  AP50"), (80, "Results on shapes_val:\n")],
)
def test_a_line_during_the_training_and_a_table_at_its_end(
    make_cfg, monkeypatch, iterations, first
):
    lines = []
    monkeypatch.setattr(results_table.screen, "info", lambda *x: lines.append(x[0] % x[1:]))
    show_results(make_cfg("SOLVER.MAX_ITER", 80), {"bbox": BOX}, iterations=iterations)
    assert lines[0].startswith(first)
