import math

import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import Boxes, Instances

from lite_focus_detr.data import register_datasets
from lite_focus_detr.engine.evaluator import ThresholdEvaluator


@pytest.fixture
def evaluate(small_config, tmp_path):
    """Results for the data set of three shapes images with what ``detect(record)`` finds."""
    register_datasets(small_config)
    records = DatasetCatalog.get("shapes_val")

    def run(detect):
        evaluator = ThresholdEvaluator("shapes_val", output_dir=str(tmp_path))
        evaluator.reset()
        outputs = [{"instances": detect(record)} for record in records]
        evaluator.process(records, outputs)
        return evaluator.evaluate()["bbox"]

    return run


def instances(record, scores, shift=0.0):
    """The objects of a record, with one of the scores each."""
    found = Instances((record["height"], record["width"]))
    boxes = torch.tensor([x["bbox"] for x in record["annotations"]])
    boxes = boxes + shift * torch.tensor([1.0, 1, 0, 0])
    found.pred_boxes = Boxes(torch.cat((boxes[:, :2], boxes[:, :2] + boxes[:, 2:]), 1))
    found.scores = torch.full((len(boxes),), scores)
    found.pred_classes = torch.tensor([x["category_id"] for x in record["annotations"]])
    return found


def test_the_best_threshold_is_among_the_results(evaluate):
    def detect(record):
        return Instances.cat([instances(record, 0.6), instances(record, 0.25, shift=200)])

    results = evaluate(detect)
    assert results["AP"] == pytest.approx(100)
    assert results["F1"] == pytest.approx(100)
    assert results["threshold"] == pytest.approx(0.6)
    names = MetadataCatalog.get("shapes_val").thing_classes
    assert {f"AP-{name}" for name in names} < results.keys()


def test_without_right_detections_there_is_none(evaluate):
    results = evaluate(lambda record: instances(record, 0.6, shift=200))
    assert math.isnan(results["threshold"])
    assert math.isnan(results["F1"])


def test_without_any_detection_there_is_none(evaluate):
    results = evaluate(lambda record: instances(record, 0.6)[:0])
    assert math.isnan(results["threshold"])
