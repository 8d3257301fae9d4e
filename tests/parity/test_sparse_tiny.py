"""Sparse DETR equals the published code: predictions of all heads, DAM, losses and gradients."""

import numpy as np
import pytest
import torch
from detectron2.modeling import build_model
from detectron2.structures import Boxes, ImageList, Instances
from torchvision.ops import box_convert

from lite_focus_detr import ops
from lite_focus_detr.converters import convert_state_dict
from lite_focus_detr.modeling.structures import SamplingPoints

SIZES = [(128, 160), (104, 136)]
CANVAS = ImageList(torch.zeros(2, 3, 128, 160), SIZES)
MAPS = ("res3", "res4", "res5")
LEVELS = ((16, 20), (8, 10), (4, 5), (2, 3))


def close(ours, theirs, atol=2e-5):
    np.testing.assert_allclose(ours.numpy(force=True), theirs, rtol=0, atol=atol)


@pytest.fixture
def model(golden, tiny_config):
    data = golden("sparse_full")
    cfg = tiny_config(
        "deformable_two_stage",
        **{
            "NUM_CLASSES": 20,
            "NORM_GROUPS": 32,
            "QUERY_SELECTION": "token_content",
            "CLASS_AGNOSTIC_PROPOSALS": False,
            "PROPOSAL_LOSS": "all",
            "INVERSE_SIGMOID_EPS": 1e-5,
            "ENCODER.NUM_LAYERS": 3,
            "LOSS.CLASS_WEIGHT": 2.0,
            "LOSS.GIOU_EPS": 0.0,
        },
    )
    cfg.MODEL.META_ARCHITECTURE = "SparseDETR"
    cfg.MODEL.BACKBONE.NAME = "RecordedMaps"
    model = build_model(cfg).train()
    weights = {k[2:]: torch.from_numpy(v) for k, v in data.items() if k.startswith("w/")}
    converted, report = convert_state_dict(weights, cfg)
    assert (report.unused, report.missing, report.differences) == ({}, [], [])
    model.load_state_dict(converted)
    model.backbone.maps = {name: torch.from_numpy(data[f"in/{name}"]) for name in MAPS}
    return model, data, report


def test_predictions_of_all_heads(model):
    detector, data, _ = model
    with torch.no_grad():
        tokens = detector.build_tokens(CANVAS)
        encoded = detector.encoder(tokens, detector.proposal_head)
        outputs = detector.forward_outputs(CANVAS)
    for layer, (logits, boxes) in enumerate(encoded.predictions):
        close(logits, data[f"out/encaux_logits{layer}"])
        close(boxes, data[f"out/encaux_boxes{layer}"])
    close(outputs.pred_logits, data["out/pred_logits"])
    close(outputs.pred_boxes, data["out/pred_boxes"])
    close(outputs.aux_outputs[0].logits, data["out/aux_logits0"])
    close(outputs.proposal_outputs.logits, data["out/enc_logits"])
    close(outputs.proposal_outputs.boxes, data["out/enc_boxes"])
    scores = torch.where(
        tokens.padding_mask, encoded.trace.foreground.min(), encoded.trace.foreground
    )
    close(scores, data["out/backbone_mask_prediction"])
    assert list(encoded.trace.budgets) == data["out/sparse_token_nums"].tolist()
    indices = np.sort(encoded.trace.kept[0].indices)
    np.testing.assert_array_equal(indices, np.sort(data["out/backbone_topk_inds"]))


def test_recorded_samples_are_those_of_the_decoder(model, golden):
    detector, _, _ = model
    data = golden("sparse_train")
    outputs = detector.forward_outputs(CANVAS, return_sampling=True)
    assert len(outputs.sampling) == 2
    for layer, (locations, weights) in enumerate(outputs.sampling):
        close(locations, data["in/sampling_locations_dec"][:, layer])
        close(weights, data["in/attn_weights_dec"][:, layer])


def test_attention_map(golden):
    data = golden("sparse_train")
    locations = torch.from_numpy(data["in/sampling_locations_dec"]).unbind(1)
    weights = torch.from_numpy(data["in/attn_weights_dec"]).unbind(1)
    sampling = [SamplingPoints(*layer) for layer in zip(locations, weights, strict=True)]
    maps = [ops.attention_map(*layer, LEVELS) for layer in sampling]
    close(sum(maps).sum(-1), data["out/dam"])
    close(maps[-1][..., 0], data["out/dam_last_layer_head0"])


def test_losses_and_gradients(model, golden):
    detector, _, report = model
    data = golden("sparse_train")
    batch = []
    for image, (height, width) in enumerate(SIZES):
        instances = Instances((height, width))
        boxes = box_convert(torch.from_numpy(data[f"in/boxes{image}"]), "cxcywh", "xyxy")
        instances.gt_boxes = Boxes(boxes * torch.tensor([width, height, width, height]))
        instances.gt_classes = torch.from_numpy(data[f"in/labels{image}"])
        batch.append({"image": torch.zeros(3, height, width), "instances": instances})
    losses = detector(batch)
    expected = {
        name.replace("loss_ce", "loss_class").replace("loss_mask_prediction", "loss_dam"): value
        for name, value in zip(
            data["out/loss_names"].tolist(),
            (data["out/loss_unweighted"] * data["out/loss_weight"]).tolist(),
            strict=True,
        )
        if name.startswith("loss")
    }
    assert sorted(losses) == sorted(expected)
    for name, value in expected.items():
        assert losses[name].item() == pytest.approx(value, rel=1e-5), name
    sum(losses.values()).backward()
    parameters = dict(detector.named_parameters())
    gradients = zip(data["out/grad_names"].tolist(), data["out/grad_norms"].tolist(), strict=True)
    for name, norm in gradients:
        (ours,) = report.used[name]
        gradient = parameters.pop(ours).grad
        assert gradient.norm().item() == pytest.approx(norm, rel=1e-4, abs=1e-4), name
        if f"grad/{name}" in data:
            close(gradient, data[f"grad/{name}"], atol=2e-5 * max(1.0, norm))
    assert parameters == {}
