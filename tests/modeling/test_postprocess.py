from collections import Counter

import pytest
import torch

from lite_focus_detr.modeling import replaced_values
from lite_focus_detr.modeling.postprocess import COCO_IDS, best_detections, to_instances
from lite_focus_detr.modeling.structures import Prediction


def test_the_best_pairs_of_query_and_class_become_boxes_in_pixels():
    logits = torch.tensor([[[2.0, -1.0], [3.0, 1.0], [-5.0, -5.0]]])
    boxes = torch.tensor([[[0.5, 0.5, 0.2, 0.4], [0.25, 0.5, 0.5, 1.0], [0.5, 0.5, 0.1, 0.1]]])
    (result,) = to_instances(best_detections(Prediction(logits, boxes), 3), [(100, 200)])
    assert result.pred_classes.tolist() == [0, 0, 1]
    assert result.scores.tolist() == pytest.approx(torch.tensor([3.0, 2.0, 1.0]).sigmoid().tolist())
    expected = [[0, 0, 100, 100], [80, 30, 120, 70], [0, 0, 100, 100]]
    torch.testing.assert_close(result.pred_boxes.tensor, torch.tensor(expected).float())


def test_boxes_that_are_not_numbers_are_dropped():
    boxes = torch.full((1, 2, 4), 0.5)
    boxes[0, 0, 2] = float("nan")
    prediction = Prediction(torch.zeros(1, 2, 1), boxes)
    (result,) = to_instances(best_detections(prediction, 5), [(10, 10)])
    assert len(result) == 1


@pytest.mark.fault(area="evaluation", expected="repaired")
def test_dropped_detections_are_counted_and_logged_once(caplog, monkeypatch):
    monkeypatch.setattr(replaced_values, "totals", Counter())
    boxes = torch.full((2, 4, 4), 0.5)
    boxes[0, 0, 2], boxes[1, 1, 0], boxes[1, 3, 1] = float("nan"), float("inf"), float("nan")
    logits = torch.zeros(2, 4, 1)
    logits[1, 2] = float("nan")
    mask = torch.zeros(2, 4, dtype=torch.bool)
    mask[1, 3] = True  # a slot without a query is not counted
    for _ in range(2):
        found = best_detections(Prediction(logits, boxes), 9, padding_mask=mask)
        results = to_instances(found, [(10, 10)] * 2)
    assert [len(result) for result in results] == [3, 1]
    assert replaced_values.totals == {"detections": 6}
    (message,) = caplog.messages
    assert message.startswith("3 detections are dropped: their score or box is not finite")


def test_slots_without_a_query_give_no_detection():
    prediction = Prediction(torch.ones(1, 3, 2), torch.full((1, 3, 4), 0.5))
    mask = torch.tensor([[False, True, False]])
    (result,) = to_instances(best_detections(prediction, 100, padding_mask=mask), [(10, 10)])
    assert len(result) == 4


def test_coco_ids_that_no_category_has_are_dropped():
    logits = torch.full((1, 1, 91), -10.0)
    logits[0, 0, 12] = 10.0  # No category has the id 12.
    logits[0, 0, 90] = 5.0
    prediction = Prediction(logits, torch.full((1, 1, 4), 0.5))
    (result,) = to_instances(best_detections(prediction, 1, coco_id_rows=True), [(10, 10)])
    assert result.pred_classes.tolist() == [79]
    assert len(COCO_IDS) == 80
    assert COCO_IDS[0] == 1
    assert COCO_IDS[-1] == 90
