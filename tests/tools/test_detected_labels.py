import json

import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import Boxes, Instances
from torch import nn

from lite_focus_detr.data import register_datasets
from lite_focus_detr.tools.detected_labels import DATASET, detect_labels


class Detector(nn.Module):
    """Finds one sure and one unsure object in every image."""

    def forward(self, inputs):
        assert not self.training
        found = Instances((inputs[0]["height"], inputs[0]["width"]))
        found.pred_boxes = Boxes(torch.tensor([[5.0, 6.0, 25.0, 36.0], [0.0, 0.0, 9.0, 9.0]]))
        found.scores = torch.tensor([0.9, 0.2])
        found.pred_classes = torch.tensor([2, 0])
        return [{"instances": found}]


@pytest.fixture
def labelled(small_config, tmp_path):
    small_config.DATASETS.SHAPES.NUM_TRAIN = 3
    register_datasets(small_config)
    cfg = detect_labels(small_config, Detector(), tmp_path / "labels", 0.3)
    register_datasets(cfg)
    yield cfg
    DatasetCatalog.remove(DATASET)
    MetadataCatalog.remove(DATASET)


def test_only_sure_detections_become_labels(labelled, small_config):
    assert labelled.DATASETS.TRAIN == (DATASET,)
    assert small_config.DATASETS.TRAIN == ("shapes_train",)
    records = DatasetCatalog.get(DATASET)
    originals = DatasetCatalog.get("shapes_train")
    assert len(records) == len(originals) == 3
    for record, original in zip(records, originals, strict=True):
        assert record["file_name"].endswith(original["file_name"].lstrip("./"))
        (annotation,) = record["annotations"]
        assert annotation["bbox"] == [5.0, 6.0, 20.0, 30.0]
        assert annotation["category_id"] == 2


def test_the_file_has_a_category_for_every_class(labelled):
    (_, path, _) = labelled.DATASETS.COCO[-1]
    with open(path) as file:
        contents = json.load(file)
    assert [category["id"] for category in contents["categories"]] == [1, 2, 3]
    assert [annotation["area"] for annotation in contents["annotations"]] == [600.0] * 3
