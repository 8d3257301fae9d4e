import re
from xml.etree import ElementTree

import numpy as np
import pytest
from tests.visualization.test_report_tables import SCRIPT, curve, quality

from lite_focus_detr.analysis.detection_quality import ClassQuality
from lite_focus_detr.visualization.report_charts import (
    MAX_CLASSES,
    draw_f1,
    draw_history,
    draw_precision,
    largest_classes,
)

SVG = "{http://www.w3.org/2000/svg}"


def texts(svg):
    return [element.text for element in ElementTree.fromstring(svg).iter(f"{SVG}text")]


def points(path):
    """Of the line that is drawn."""
    return np.array(re.findall(r"[ML] ([\d.-]+) ([\d.-]+)", path), dtype=float)


def test_a_chart_is_as_wide_as_its_place_and_takes_the_colours_of_the_page():
    svg = draw_f1(quality())
    root = ElementTree.fromstring(svg)
    assert root.tag == f"{SVG}svg"
    assert {"width", "height"}.isdisjoint(root.attrib)
    assert "viewBox" in root.attrib
    assert root.attrib["aria-label"] == "F1 over the score threshold"
    assert "var(--ink)" in svg
    # What is left are those of clip paths and of the invisible background.
    assert set(re.findall(r"(?:stroke|fill): (#\w+)", svg)) <= {"#000000", "#ffffff"}
    assert "<metadata" not in svg


def test_charts_of_one_page_have_ids_of_their_own():
    ids = [
        set(re.findall(r'<clipPath id="(\w+)"', svg))
        for svg in (draw_f1(quality()), draw_precision(quality()))
    ]
    assert ids[0]
    assert ids[0].isdisjoint(ids[1])


def test_the_same_numbers_give_the_same_chart():
    assert draw_precision(quality()) == draw_precision(quality())


def test_names_of_classes_are_texts_and_no_formulas():
    svg = draw_f1(quality(names=("$a_1$ & b", SCRIPT)))
    # Long names are cut.
    assert {"$a_1$ & b", f"{SCRIPT[:21]}…", "all objects", "best: 0.50"} <= set(texts(svg))
    assert "<script" not in svg


def test_lines_go_through_the_numbers():
    rows = [{"iteration": 10 * i, "total_loss": 4.0 - i} for i in range(4)]
    svg = draw_history(rows, "Loss", {"total_loss": "all losses"})
    paths = re.findall(r'<path d="([^"]+)" clip-path[^>]*style="[^"]*var\(--class-0\)', svg)
    x, y = points(paths[0]).T
    assert len(x) == 4
    # Equal steps down and to the right; y grows downwards.
    np.testing.assert_allclose(np.diff(x), np.diff(x)[0], rtol=1e-4)
    np.testing.assert_allclose(np.diff(y), np.diff(y)[0], rtol=1e-4)
    assert (np.diff(x) > 0).all()
    assert (np.diff(y) > 0).all()


def test_rows_without_a_metric_are_left_out():
    rows = [{"iteration": 1, "bbox/AP": 3.0}, {"iteration": 2, "total_loss": 1.0}]
    assert "AP" in texts(draw_history(rows, "AP of boxes", {"bbox/AP": "AP"}))


def test_classes_with_the_most_objects_have_lines():
    found = quality()
    classes = [
        ClassQuality(
            str(index), 100 - index if index % 2 else 200 + index, 0, 0, 0, curve((1, 1, 1))
        )
        for index in range(20)
    ]
    found = type(found)(**{**vars(found), "classes": tuple(classes)})
    assert len(largest_classes(found)) == MAX_CLASSES
    assert largest_classes(found) == [4, 6, 8, 10, 12, 14, 16, 18]


@pytest.mark.parametrize("threshold", [None, 0.5])
def test_a_detector_that_finds_nothing_has_charts(threshold):
    empty = quality(threshold=threshold)
    nothing = curve((1, 0, 0))
    empty = type(empty)(**{**vars(empty), "curve": nothing})
    assert draw_f1(empty)
    assert draw_precision(empty)
