"""Predictions of all layers equal those of MMDetection 3.3.0, on tiny models of it.

Of DINO one image without padding: of padding MMDetection makes proposals, this package does not.
"""

import numpy as np
import pytest
import torch
from detectron2.modeling import build_model
from detectron2.structures import ImageList
from tests.parity.conftest import golden_files

from lite_focus_detr.converters import convert_state_dict

# DINO clamps references at 1e-3 there, its own heads at 1e-5; the others at 1e-5.
EPS = {"dino": 1e-3}


@pytest.fixture(params=golden_files("mmdet_*_tiny"))
def case(request, golden, tiny_config):
    data, family = golden(request.param), request.param.removeprefix("mmdet_").removesuffix("_tiny")
    changes = {"INVERSE_SIGMOID_EPS": EPS.get(family, 1e-5)}
    if family == "dino":
        changes |= {"POSITION.TEMPERATURE": 20.0, "POSITION.OFFSET": 0.0}
    cfg = tiny_config(family, **changes)
    cfg.MODEL.BACKBONE.NAME = "RecordedMaps"
    cfg.TEST.DETECTIONS_PER_IMAGE = 15
    weights = {k[2:]: torch.from_numpy(v) for k, v in data.items() if k.startswith("w/")}
    converted, report = convert_state_dict(weights, cfg)
    assert report.differences == []
    model = build_model(cfg).eval()
    model.load_state_dict(converted)
    model.backbone.maps = {n: torch.from_numpy(data[f"in/{n}"]) for n in ("res3", "res4", "res5")}
    return model, data


def images_of(data):
    sizes = data["in/image_sizes"].tolist()
    return ImageList.from_tensors([torch.zeros(3, *size) for size in sizes])


@torch.no_grad()
def test_logits_and_boxes_of_every_layer_equal_those_of_mmdetection(case):
    model, data = case
    outputs = model.forward_outputs(images_of(data))
    for layer, prediction in enumerate(outputs.layers):
        np.testing.assert_allclose(prediction.logits, data["out/logits"][layer], atol=1e-5)
        np.testing.assert_allclose(prediction.boxes, data["out/boxes"][layer], atol=1e-5)


@torch.no_grad()
def test_detections_equal_those_of_mmdetection(case):
    model, data = case
    images = images_of(data)
    found = model.select_detections(model.forward_outputs(images), images)
    for image, ours in enumerate(found):
        np.testing.assert_allclose(ours.scores, data[f"out/det{image}_scores"], atol=1e-5)
        np.testing.assert_array_equal(ours.pred_classes, data[f"out/det{image}_classes"])
        boxes = ours.pred_boxes
        boxes.clip(images.image_sizes[image])
        np.testing.assert_allclose(boxes.tensor, data[f"out/det{image}_boxes"], atol=1e-5 * 160)
