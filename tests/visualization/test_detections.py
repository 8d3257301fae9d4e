"""Pictures of ground truth and predictions."""

import numpy as np
import pytest
import torch
from detectron2.structures import Boxes, BoxMode, Instances

from lite_focus_detr.visualization.detections import (
    class_legend,
    describe_detections,
    draw_ground_truth,
    draw_predictions,
    keep_best,
    side_by_side,
)
from lite_focus_detr.visualization.style import Caption, class_color

METADATA = {"thing_classes": ["cell", "plate"]}


def black(height=400, width=800):
    return np.zeros((height, width, 3), np.uint8)


def instances(boxes, classes):
    result = Instances((400, 800))
    result.pred_boxes = Boxes(torch.tensor(boxes).reshape(-1, 4))
    result.scores = torch.full((len(boxes),), 0.75)
    result.pred_classes = torch.tensor(classes, dtype=torch.int64)
    return result


def outline(picture):
    """Left, top, right, bottom of the box that is drawn, measured away from its label."""
    drawn = picture.max(-1) > 60
    columns = np.flatnonzero(drawn[drawn.shape[0] // 2])
    rows = np.flatnonzero(drawn[:, columns[-1] - 20])
    return columns[0], rows[0], columns[-1], rows[-1]


def test_a_predicted_box_is_drawn_at_its_place():
    picture = draw_predictions(black(), instances([[100.0, 50.0, 400.0, 300.0]], [1]), METADATA)
    assert picture.shape == (400, 800, 3)
    assert outline(picture) == pytest.approx((100, 50, 400, 300), abs=1)


@pytest.mark.parametrize(
    ("mode", "bbox"),
    [(BoxMode.XYWH_ABS, [100, 50, 300, 250]), (BoxMode.XYXY_ABS, [100, 50, 400, 300])],
)
def test_ground_truth_is_drawn_at_its_place(mode, bbox):
    box = {"bbox": bbox, "bbox_mode": mode, "category_id": 0}
    picture = draw_ground_truth(black(), {"annotations": [box]}, METADATA)
    assert outline(picture) == pytest.approx((100, 50, 400, 300), abs=1)


def test_classes_have_different_colours():
    box = [[100.0, 50.0, 400.0, 300.0]]
    pictures = [draw_predictions(black(), instances(box, [label]), METADATA) for label in (0, 1)]
    assert (pictures[0][299, 200] != pictures[1][299, 200]).any()


def test_a_small_image_is_enlarged_with_its_boxes():
    picture = draw_predictions(black(40, 80), instances([[10.0, 5.0, 40.0, 30.0]], [1]), METADATA)
    assert picture.shape == (320, 640, 3)
    assert outline(picture) == pytest.approx((80, 40, 320, 240), abs=1)


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
        assert (first[299, 200] != second[299, 200]).any()


def with_scores(boxes, classes, scores):
    result = instances(boxes, classes)
    result.scores = torch.tensor(scores)
    return result


def test_a_better_detection_is_drawn_over_a_weaker_duplicate():
    box = [100.0, 50.0, 400.0, 300.0]
    for scores in ([0.9, 0.3], [0.3, 0.9]):
        picture = draw_predictions(black(), with_scores([box, box], [0, 1], scores), METADATA)
        assert tuple(picture[299, 200]) == class_color(scores.index(0.9))


def label_pixels(picture, label):
    """Number of pixels in the colour of a class above its box, where the label is."""
    return (picture[:48] == class_color(label)).all(-1).sum()


def test_the_label_of_a_duplicate_leaves_that_of_the_better_one_alone():
    box = [100.0, 50.0, 400.0, 300.0]
    alone = draw_predictions(black(), with_scores([box], [0], [0.9]), METADATA)
    both = draw_predictions(black(), with_scores([box, box], [1, 0], [0.3, 0.9]), METADATA)
    assert label_pixels(alone, 0) > 200
    np.testing.assert_array_equal(both[:48, :200], alone[:48, :200])


def test_a_small_object_is_not_covered_by_its_label():
    small = [[100.0, 50.0, 112.0, 62.0]]
    picture = draw_predictions(black(), instances(small, [0]), METADATA)
    assert not picture[54:59, 104:109].any()
    assert picture[30:48, 100:130].any()


def test_labels_are_short_where_there_are_many_objects():
    corners = [[float(x), float(y)] for x in range(0, 780, 40) for y in range(20, 380, 40)]
    boxes = [[x, y, x + 30, y + 30] for x, y in corners]
    crowded = instances(boxes, [0] * len(boxes))
    few, many = (draw_predictions(black(), x, METADATA) for x in (crowded[:1], crowded))
    # "cell 75%" is wider than the box, "75" is not.
    color = class_color(0)
    widths = [(x[:19, :40] == color).all(-1).any(0).sum() for x in (few, many)]
    assert widths[0] == 40
    assert 5 < widths[1] <= 30
    record = {
        "annotations": [
            {"bbox": box, "bbox_mode": BoxMode.XYXY_ABS, "category_id": 0} for box in boxes
        ]
    }
    assert not draw_ground_truth(black(), record, METADATA)[10].any()


def test_a_caption_is_written_above_with_the_classes_in_their_colours():
    found = instances([[100.0, 50.0, 400.0, 300.0]] * 3, [1, 0, 1])
    assert class_legend([1, 0, 1], METADATA) == [
        ("plate 2", class_color(1)),
        ("cell 1", class_color(0)),
    ]
    plain = draw_predictions(black(), found, METADATA)
    picture = draw_predictions(black(), found, METADATA, Caption("prediction", "LiteDETR"))
    np.testing.assert_array_equal(picture[-400:], plain)
    for label in (0, 1):
        assert (picture[:-400] == class_color(label)).all(-1).sum() > 50


def test_the_best_detections_are_kept():
    found = with_scores([[0.0, 0.0, 9.0, 9.0]] * 4, [0, 1, 2, 3], [0.2, 0.9, 0.5, 0.3])
    assert keep_best(found, 0.3).pred_classes.tolist() == [1, 2, 3]
    assert keep_best(found, 0.3, 2).pred_classes.tolist() == [1, 2]
    assert keep_best(found, count=3).pred_classes.tolist() == [1, 2, 3]
    assert len(keep_best(found, 0.95)) == 0


def test_an_empty_picture_says_what_the_best_score_was():
    found = with_scores([[0.0, 0.0, 9.0, 9.0]] * 3, [0, 0, 0], [0.2, 0.9, 0.5])
    assert describe_detections(found, 0.4) == "2 objects, at least 40%"
    assert describe_detections(found, 0.6) == "1 object, at least 60%"
    assert describe_detections(found, 0.95) == "no object of at least 95%, the best has 90%"
    assert describe_detections(found[:0], 0.5) == "no objects, at least 50%"


def test_boxes_without_labels_say_nothing_but_their_class():
    box = {"bbox": [100, 50, 300, 250], "bbox_mode": BoxMode.XYWH_ABS, "category_id": 0}
    picture = draw_ground_truth(black(), {"annotations": [box]}, METADATA, labels=False)
    assert not picture[:48].any()
    assert outline(picture) == pytest.approx((100, 50, 400, 300), abs=1)
