"""Lite-DINO equals the published one on a tiny model, from the backbone's maps to detections,
losses and gradient norms."""

import json

import numpy as np
import pytest
import torch
from detectron2.modeling import build_model
from detectron2.modeling.postprocessing import detector_postprocess
from detectron2.structures import Boxes, ImageList, Instances
from tests.parity.conftest import golden_files
from torchvision.ops import box_convert

from lite_focus_detr.converters import convert_state_dict
from lite_focus_detr.modeling.denoising import Noise

EVAL = [name[: -len("_eval")] for name in golden_files("dino_tiny_*_eval")]
TRAIN = [name[: -len("_train")] for name in golden_files("dino_tiny_*_train")]
SIZES = [(96, 128), (72, 88)]


@pytest.fixture
def load(golden, tiny_config):
    def make(name):
        data = golden(f"{name}_eval")
        options = json.loads(str(data["meta"]))["options"]
        attention = "key_aware" if options["key_aware"] else "deformable"
        changes = {
            "NORM_GROUPS": 32,
            "SHARE_HEADS": True,
            "POSITION.TEMPERATURE": 20.0,
            "POSITION.OFFSET": 0.0,
            "ENCODER.NUM_LAYERS": 6,
            "DECODER.NUM_LAYERS": 3,
            "DENOISING.NUM": 100,
            "ENCODER.ATTENTION": attention,
            "DECODER.ATTENTION": attention,
        }
        cfg = tiny_config("dino", **changes)
        cfg.MODEL.META_ARCHITECTURE = "LiteDETR"
        cfg.MODEL.LITE.NUM_BLOCKS = options["num_expansion"]
        cfg.MODEL.LITE.NUM_HIGH_LEVELS = options["enc_scale"]
        cfg.MODEL.LITE.LOW_FFN_DIM = 32
        cfg.MODEL.BACKBONE.NAME = "RecordedSmallMaps"
        cfg.TEST.DETECTIONS_PER_IMAGE = 15
        model = build_model(cfg)
        arrays = golden(f"{name}_weights")
        weights = {k[2:]: torch.from_numpy(v) for k, v in arrays.items() if k.startswith("w.")}
        converted, report = convert_state_dict(weights, cfg)
        model.load_state_dict(converted)
        maps = {f"res{i + 3}": torch.from_numpy(data[f"feat{i}"]) for i in range(3)}
        model.backbone.maps = maps
        return model, data, report

    return make


def close(ours, theirs, tolerance):
    np.testing.assert_allclose(ours.numpy(force=True), theirs, rtol=0, atol=tolerance)


@pytest.mark.parametrize("name", EVAL)
def test_every_prediction_equals_that_of_upstream(load, name):
    model, data, _ = load(name)
    with torch.no_grad():
        outputs = model.eval().forward_outputs(ImageList(torch.zeros(2, 3, 96, 128), SIZES))
    np.testing.assert_array_equal(outputs.proposal_indices, data["topk_proposals"])
    close(outputs.memory, data["memory"], 1e-5)
    named = {"pred": (outputs.pred_logits, outputs.pred_boxes), "interm": outputs.proposal_outputs}
    named |= {f"aux{i}": prediction for i, prediction in enumerate(outputs.aux_outputs)}
    for kind, (logits, boxes) in named.items():
        close(logits, data[f"{kind}_logits"], 1e-4)
        close(boxes, data[f"{kind}_boxes"], 1e-5)


@pytest.mark.parametrize("name", EVAL)
def test_detections_equal_those_of_upstream(load, name):
    model, data, _ = load(name)
    batch = [{"image": torch.zeros(3, *size)} for size in SIZES]
    # The recorded batch is padded, model(batch) pads no image for another.
    with torch.no_grad():
        images = model.eval().preprocess_image(batch)
        results = model.select_detections(model.forward_outputs(images), images)
    for image, (result, wanted) in enumerate(zip(results, data["target_sizes"], strict=True)):
        found = detector_postprocess(result, int(wanted[0]), int(wanted[1]))
        close(found.scores, data["post_scores"][image], 1e-5)
        np.testing.assert_array_equal(found.pred_classes, data["post_labels"][image])
        inside = torch.from_numpy(data["post_boxes"][image])
        height, width = data["target_sizes"][image]
        inside[:, 0::2] = inside[:, 0::2].clamp(0, width)
        inside[:, 1::2] = inside[:, 1::2].clamp(0, height)
        close(found.pred_boxes.tensor, inside, 1e-5 * max(height, width))


def recorded_noise(data):
    chance = torch.from_numpy(data["noise_label_p"])
    labels = torch.zeros(len(chance), dtype=torch.int64)
    labels[chance < 0.25] = torch.from_numpy(data["noise_new_label"])
    sign = torch.from_numpy(data["noise_box_sign01"]) * 2.0 - 1.0
    return Noise(chance, labels, sign, torch.from_numpy(data["noise_box_rand"]))


def training_batch(data):
    batch = []
    for image, (height, width) in enumerate(SIZES):
        instances = Instances((height, width))
        boxes = torch.from_numpy(data[f"target{image}_boxes"])
        scale = torch.tensor([width, height, width, height])
        instances.gt_boxes = Boxes(box_convert(boxes, "cxcywh", "xyxy") * scale)
        instances.gt_classes = torch.from_numpy(data[f"target{image}_labels"])
        batch.append({"image": torch.zeros(3, height, width), "instances": instances})
    return batch


@pytest.mark.parametrize("name", TRAIN)
def test_losses_and_gradient_norms_equal_those_of_upstream(golden, load, name):
    model, _, report = load(name)
    data = golden(f"{name}_train")
    noise = recorded_noise(data)
    model.denoising.sample_noise = lambda count, device: noise
    losses = model.train()(training_batch(data))
    weights = json.loads(str(data["weight_dict_json"]))
    expected = {
        name.replace("loss_ce", "loss_class").replace("_interm", "_enc"): (
            weight * data[f"loss.{name}"]
        )
        for name, weight in weights.items()
        if f"loss.{name}" in data
    }
    assert losses.keys() == expected.keys()
    for name, loss in losses.items():
        assert loss.item() == pytest.approx(expected[name], abs=1e-5), name
    sum(losses.values()).backward()
    parameters = dict(model.named_parameters())
    names = json.loads(str(data["grad_names_json"]))
    for name, norm in zip(names, data["grad_norms"], strict=True):
        if norm < 0:
            continue
        for ours in report.used.get(name, ()):
            gradient = parameters.pop(ours).grad.norm().item()
            assert gradient == pytest.approx(norm, rel=1e-3, abs=1e-6), name
    assert list(parameters) == []
