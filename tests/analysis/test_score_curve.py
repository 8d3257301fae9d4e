import numpy as np
import pytest

from lite_focus_detr.analysis.score_curve import ScoreCurve, score_curve


def match(scores, found, ignored=None, objects=1, crowds=0):
    """As pycocotools has it for an image and a class, at the IoU thresholds 0.5 and 0.75; nothing
    is found at the second."""
    ignored = [False] * len(scores) if ignored is None else ignored
    return {
        "dtScores": scores,
        "dtMatches": np.array([found, [0] * len(scores)]),
        "dtIgnore": np.array([ignored, [False] * len(scores)]),
        "gtIgnore": [False] * objects + [True] * crowds,
    }


def test_each_score_counts_the_detections_that_have_at_least_it():
    images = [match([0.9, 0.4], [7, 0], objects=2), match([0.6, 0.2], [0, 8], objects=2)]
    curve = score_curve(images, 0)
    assert curve.scores.tolist() == [0.9, 0.6, 0.4, 0.2]
    assert curve.precision.tolist() == [1, 1 / 2, 1 / 3, 2 / 4]
    assert curve.recall.tolist() == [1 / 4, 1 / 4, 1 / 4, 2 / 4]
    assert curve.f1.tolist() == pytest.approx([2 / 5, 2 / 6, 2 / 7, 4 / 8])
    assert curve.best() == 3
    assert score_curve(images, 1).best() is None


def test_equal_scores_are_taken_together():
    curve = score_curve([match([0.5, 0.5, 0.5], [1, 0, 2], objects=2)], 0)
    assert curve.scores.tolist() == [0.5]
    assert curve.precision.tolist() == [2 / 3]
    assert curve.recall.tolist() == [1]


def test_crowds_and_what_lies_in_them_do_not_count():
    curve = score_curve([match([0.9, 0.8], [3, 4], [False, True], objects=1, crowds=1)], 0)
    assert (curve.scores.tolist(), curve.precision.tolist(), curve.recall.tolist()) == (
        [0.9],
        [1],
        [1],
    )


def test_of_equal_f1_the_higher_score_is_the_best():
    curve = ScoreCurve(*(np.array(x) for x in ([0.9, 0.8, 0.1], [1.0, 0.5, 0.2], [0.5, 1.0, 1.0])))
    assert curve.f1[0] == curve.f1[1]
    assert curve.best() == 0


def test_values_at_a_score_are_those_of_the_detections_above_it():
    curve = score_curve([match([0.9, 0.4], [7, 0], objects=2)], 0)
    assert curve.at(0.95) == (0, 0, 0)
    assert curve.at(0.9)[:2] == (1, 1 / 2)
    assert curve.at(0.5)[:2] == (1, 1 / 2)
    assert curve.at(0.0)[:2] == (1 / 2, 1 / 2)


@pytest.mark.parametrize("images", [[], [match([], [])]])
def test_no_detections_are_a_curve_without_points(images):
    curve = score_curve(images, 0)
    assert len(curve.scores) == 0
    assert curve.best() is None
    assert curve.at(0.5) == (0, 0, 0)
