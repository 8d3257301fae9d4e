import math
import re

import numpy as np
import pytest

from lite_focus_detr.analysis.detection_quality import (
    ClassQuality,
    Confusion,
    DetectionQuality,
    ErrorType,
    SizeQuality,
)
from lite_focus_detr.analysis.score_curve import ScoreCurve
from lite_focus_detr.visualization import report_tables
from lite_focus_detr.visualization.report_tables import (
    class_table,
    confusion_table,
    error_table,
    percent,
    selection_table,
    size_table,
)

SCRIPT = "<script>alert(1)</script>"


def rows(table):
    """Texts of the cells, row by row."""
    lines = re.findall(r"<tr[^>]*>(.*?)</tr>", table, flags=re.DOTALL)
    return [
        [re.sub("<[^>]*>", "", cell) for cell in re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", line)]
        for line in lines
    ]


def curve(*points):
    scores, precision, recall = (np.array(x, dtype=float) for x in zip(*points, strict=True))
    return ScoreCurve(scores, precision, recall)


def quality(names=("cell", SCRIPT), threshold=0.5):
    own = curve((0.8, 1.0, 0.25), (0.5, 0.75, 0.5), (0.1, 0.5, 1.0))
    classes = [ClassQuality(name, 4, 0.5, 0.75, math.nan, own) for name in names]
    return DetectionQuality(
        num_images=3,
        metrics={"AP": 0.4, "AP50": 0.625, "AP75": 0.3},
        classes=tuple(classes),
        sizes={"small": SizeQuality(0, math.nan, math.nan), "large": SizeQuality(8, 0.2, 0.9)},
        precision={"0.50": np.linspace(1, 0, 101)},
        curve=own,
        threshold=threshold,
        confusion=Confusion((*names, "background"), np.array([[3, 0, 1], [1, 2, 1], [0, 5, 0]])),
        errors={
            name: ErrorType(index, 0.1 * index)
            for index, name in enumerate(("Cls", "Loc", "Both", "Dupe", "Bkg", "Miss"))
        },
        images=(),
    )


def test_values_are_per_cent_at_the_threshold():
    head, total, first, second = rows(class_table(quality()))
    assert head == ["class", "objects", "AP", "AP50", "AP75", "precision", "recall", "F1"]
    assert total == ["all", "8", "40.0", "62.5", "30.0", "75.0", "50.0", "60.0"]
    assert first == ["cell", "4", "50.0", "75.0", "-", "75.0", "50.0", "60.0"]
    assert second[0] == "&lt;script&gt;alert(1)&lt;/script&gt;"


def test_names_never_become_elements():
    found = quality(names=(f'"{SCRIPT}', "'><img src=x onerror=alert(1)>"))
    for table in (class_table(found), confusion_table(found.confusion)):
        assert "<script" not in table
        assert "<img" not in table
        # Neither do they end the attribute that holds them.
        assert 'title="&quot;&lt;script' in table


def test_without_a_threshold_nothing_is_found():
    assert rows(class_table(quality(threshold=None)))[1][-3:] == ["0.0", "0.0", "0.0"]


def test_sizes_without_objects_have_no_numbers():
    assert rows(size_table(quality()))[1:] == [
        ["small", "0", "-", "-"],
        ["large", "8", "20.0", "90.0"],
    ]


def test_the_matrix_has_objects_in_rows_and_no_number_for_nothing_at_all():
    table = confusion_table(quality().confusion)
    assert [row[1:] for row in rows(table)[1:]] == [
        ["3", "0", "1"],
        ["1", "2", "1"],
        ["0", "5", ""],
    ]
    # Three of the four objects of the first class are right.
    assert 'style="--share: 0.750">3</td>' in table


def test_many_classes_have_a_list_of_their_confusions_instead(monkeypatch):
    monkeypatch.setattr(report_tables, "MAX_MATRIX", 1)
    assert rows(confusion_table(quality().confusion)) == [
        ["object", "taken for", "times"],
        ["background", "&lt;script&gt;alert(1)&lt;/script&gt;", "5"],
        ["cell", "background", "1"],
        ["&lt;script&gt;alert(1)&lt;/script&gt;", "cell", "1"],
        ["&lt;script&gt;alert(1)&lt;/script&gt;", "background", "1"],
    ]


def test_the_longest_bar_is_that_of_the_worst_error():
    table = error_table(quality().errors)
    assert [row[-1] for row in rows(table)[1:]] == list("012345")
    assert [float(x) for x in re.findall(r"width: ([\d.]+)%", table)] == [0, 20, 40, 60, 80, 100]


def test_errors_that_cost_nothing_have_bars_without_length():
    errors = {name: ErrorType(0, 0.0) for name in quality().errors}
    assert "width: 0.0%" in error_table(errors)


def test_layers_are_rows_and_sizes_columns():
    layers = [{"small": 0.25, "all": 0.5}, {"small": math.nan, "all": 1.0}]
    table = selection_table("Objects & tokens", layers)
    assert "<caption>Objects &amp; tokens</caption>" in table
    assert rows(table) == [
        ["%", "small", "all"],
        ["layer 1", "25.0", "50.0"],
        ["layer 2", "-", "100.0"],
    ]


@pytest.mark.parametrize(("value", "text"), [(0.4567, "45.7"), (None, "-"), (math.nan, "-")])
def test_shares_have_one_decimal(value, text):
    assert percent(value) == text
