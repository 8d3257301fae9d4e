"""Pictures of ground truth and predictions."""

import numpy as np
import pytest
import torch
from detectron2.structures import Boxes, BoxMode, Instances

from lite_focus_detr.visualization.detections import (
    draw_ground_truth,
    draw_predictions,
    side_by_side,
)

METADATA = {"thing_classes": ["cell", "plate"]}


def black(height=400, width=800):
    return np.zeros((height, width, 3), np.uint8)


def instances(boxes, classes):
    result = Instances((400, 800))
    result.pred_boxes = Boxes(torch.tensor(boxes).reshape(-1, 4))
    result.scores = torch.full((len(boxes),), 0.75)
    result.pred_classes = torch.tensor(classes, dtype=torch.int64)
    return result


def extent(picture):
    """Left, top, right, bottom of what has been drawn."""
    drawn = picture.any(-1)
    rows, columns = np.flatnonzero(drawn.any(1)), np.flatnonzero(drawn.any(0))
    return columns[0], rows[0], columns[-1], rows[-1]


def test_a_predicted_box_is_drawn_at_its_place():
    picture = draw_predictions(black(), instances([[100.0, 50.0, 400.0, 300.0]], [1]), METADATA)
    assert picture.shape == (400, 800, 3)
    assert extent(picture) == pytest.approx((100, 50, 400, 300), abs=1)


@pytest.mark.parametrize(
    ("mode", "bbox"),
    [(BoxMode.XYWH_ABS, [100, 50, 300, 250]), (BoxMode.XYXY_ABS, [100, 50, 400, 300])],
)
def test_ground_truth_is_drawn_at_its_place(mode, bbox):
    box = {"bbox": bbox, "bbox_mode": mode, "category_id": 0}
    picture = draw_ground_truth(black(), {"annotations": [box]}, METADATA)
    assert extent(picture) == pytest.approx((100, 50, 400, 300), abs=1)


def test_classes_have_different_colours():
    box = [[100.0, 50.0, 400.0, 300.0]]
    pictures = [draw_predictions(black(), instances(box, [label]), METADATA) for label in (0, 1)]
    assert (pictures[0][300, 200] != pictures[1][300, 200]).any()


def test_a_small_image_is_enlarged_with_its_boxes():
    picture = draw_predictions(black(40, 80), instances([[10.0, 5.0, 40.0, 30.0]], [1]), METADATA)
    assert picture.shape == (320, 640, 3)
    left, top, _, bottom = extent(picture)
    assert (left, top, bottom) == pytest.approx((80, 40, 240), abs=1)


def test_nothing_to_draw_leaves_the_image():
    assert not draw_predictions(black(), instances([], []), METADATA).any()
    assert not draw_ground_truth(black(), {"annotations": []}, METADATA).any()


def test_classes_without_names_are_numbered():
    box = [[100.0, 50.0, 400.0, 300.0]]
    numbered = draw_predictions(black(), instances(box, [1]), {})
    named = draw_predictions(black(), instances(box, [1]), {"thing_classes": ["0", "1"]})
    np.testing.assert_array_equal(numbered, named)


def test_pictures_are_put_beside_each_other():
    left, right = black(), black() + 9
    both = side_by_side(left, right)
    np.testing.assert_array_equal(both[:, :800], left)
    np.testing.assert_array_equal(both[:, -800:], right)
    assert (both[:, 800:-800] == 255).all()


def test_neighbouring_classes_differ_in_colour_however_many_there_are():
    box, names = [[100.0, 50.0, 400.0, 300.0]], {"thing_classes": [""] * 30}
    for label in (9, 10, 11, 20, 28):
        first, second = (
            draw_predictions(black(), instances(box, [x]), names) for x in (label, label + 1)
        )
        assert (first[300, 200] != second[300, 200]).any()
