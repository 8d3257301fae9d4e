"""The five families equal detrex's: detections, losses and gradient norms on tiny models."""

import numpy as np
import pytest
import torch
from detectron2.modeling import build_model
from detectron2.structures import Boxes, Instances
from tests.parity.conftest import golden_files

from lite_focus_detr.converters import convert_state_dict
from lite_focus_detr.modeling.denoising import Noise


@pytest.fixture(params=golden_files("detrex_*_tiny"))
def case(request, golden, tiny_config):
    data = golden(request.param)
    cfg = tiny_config(request.param.removeprefix("detrex_").removesuffix("_tiny"))
    cfg.MODEL.BACKBONE.NAME = "RecordedMaps"
    cfg.TEST.DETECTIONS_PER_IMAGE = 15
    model = build_model(cfg)
    weights = {k[2:]: torch.from_numpy(v) for k, v in data.items() if k.startswith("w/")}
    converted, report = convert_state_dict(weights, cfg)
    model.load_state_dict({k: torch.as_tensor(v) for k, v in converted.items()})
    model.backbone.maps = {n: torch.from_numpy(data[f"in/{n}"]) for n in ("res3", "res4", "res5")}
    return model, data, report


def test_detections_equal_those_of_detrex(case):
    model, data, _ = case
    model.eval()
    # detrex takes the whole canvas for valid in evaluation; boxes are scaled by the true sizes.
    canvas = torch.zeros(3, 128, 160)
    outputs = model([{"image": canvas, "height": 1, "width": 1}] * 2)
    for image, (height, width) in enumerate(data["in/image_sizes"]):
        ours = outputs[image]["instances"]
        scale = torch.tensor([width, height, width, height]) * 2.0
        boxes = ours.pred_boxes.tensor * scale
        np.testing.assert_allclose(
            ours.scores.numpy(force=True), data[f"out_eval/det{image}_scores"], atol=2e-5
        )
        np.testing.assert_array_equal(ours.pred_classes, data[f"out_eval/det{image}_classes"])
        np.testing.assert_allclose(
            boxes.numpy(force=True), data[f"out_eval/det{image}_boxes"], atol=2e-5 * 320
        )


def recorded_noise(data, contrastive):
    chance = torch.from_numpy(data["noise/0"])
    changed = chance < (0.25 if contrastive else 0.2)
    labels = torch.zeros(len(chance), dtype=torch.int64)
    labels[changed] = torch.from_numpy(data["noise/1"])
    if not contrastive:
        return Noise(chance, labels, torch.ones(len(chance), 4), torch.from_numpy(data["noise/2"]))
    sign = torch.from_numpy(data["noise/2"]) * 2 - 1
    return Noise(chance, labels, sign, torch.from_numpy(data["noise/3"]))


def test_losses_and_gradient_norms_equal_those_of_detrex(case):
    model, data, report = case
    model.train()
    batch = []
    for image, (height, width) in enumerate(data["in/image_sizes"].tolist()):
        instances = Instances((height, width))
        instances.gt_boxes = Boxes(torch.from_numpy(data[f"in/gt_boxes{image}"]))
        instances.gt_classes = torch.from_numpy(data[f"in/gt_classes{image}"])
        batch.append({"image": torch.zeros(3, height, width), "instances": instances})
    if model.denoising is not None:
        noise = recorded_noise(data, model.denoising.config.contrastive)
        model.denoising.sample_noise = lambda count, device: noise
    losses = model(batch)
    assert sorted(losses) == sorted(data["out_train/loss_names"].tolist())
    expected = dict(
        zip(data["out_train/loss_names"].tolist(), data["out_train/loss_weighted"], strict=True)
    )
    for name, value in losses.items():
        assert value.item() == pytest.approx(expected[name], rel=1e-4), name
    sum(losses.values()).backward()
    parameters = dict(model.named_parameters())
    norms = dict(
        zip(data["out_train/grad_names"].tolist(), data["out_train/grad_norms"], strict=True)
    )
    for name, norm in norms.items():
        if name in report.unused:  # The same tensor under another name.
            assert report.unused[name].startswith("alias")
            continue
        (ours,) = report.used[name]
        assert parameters[ours].grad.norm().item() == pytest.approx(norm, rel=1e-3, abs=1e-5), name
        parameters.pop(ours)
    assert [name for name, p in parameters.items() if p.requires_grad] == []
