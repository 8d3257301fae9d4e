"""Focus-DETR equals the published code: scores, labels, encoder, detections, losses, gradients."""

import numpy as np
import pytest
import torch
from detectron2.modeling import build_model
from detectron2.structures import Boxes, ImageList, Instances
from tests.parity.conftest import golden_files
from torch import nn
from torchvision.ops import box_convert

from lite_focus_detr.converters import convert_state_dict
from lite_focus_detr.converters.formats.focus_detr import FOCUS_DETR
from lite_focus_detr.modeling.denoising import Noise
from lite_focus_detr.modeling.encoder.focus import FocusEncoder
from lite_focus_detr.modeling.encoder.foreground import (
    ForegroundRule,
    assign_foreground,
    foreground_loss,
)
from lite_focus_detr.modeling.encoder.token_selection import token_budgets, tokens_per_layer
from lite_focus_detr.modeling.proposals import ProposalHead, token_anchors
from lite_focus_detr.modeling.structures import FeatureTokens, Targets
from lite_focus_detr.modeling.tokens import flatten_levels

SIZES = [(128, 160), (104, 136)]
CANVAS = ImageList(torch.zeros(2, 3, 128, 160), SIZES)
MAPS = ("res3", "res4", "res5")


def weights_of(data):
    return {k[2:]: torch.from_numpy(v) for k, v in data.items() if k.startswith("w/")}


def close(ours, theirs, atol=2e-5):
    np.testing.assert_allclose(ours.numpy(force=True), theirs, rtol=0, atol=atol)


def focus_config(tiny_config, layers, ratios, num_objects):
    cfg = tiny_config(
        "dino",
        **{
            "ENCODER.NUM_LAYERS": layers,
            "DECODER.NUM_LAYERS": 3,
            "POSITION.TEMPERATURE": 20.0,
            "POSITION.OFFSET": 0.0,
        },
    )
    cfg.MODEL.META_ARCHITECTURE = "FocusDETR"
    cfg.MODEL.BACKBONE.NAME = "RecordedMaps"
    cfg.MODEL.FOCUS.KEEP_RATIOS = ratios
    cfg.MODEL.FOCUS.OBJECT_TOKENS = num_objects
    cfg.TEST.DETECTIONS_PER_IMAGE = 15
    return cfg


def encoder_of(tiny_config, data, num_objects, value="frozen"):
    cfg = focus_config(tiny_config, 6, [0.5, 0.4, 0.3, 0.3, 0.2, 0.1], num_objects)
    cfg.MODEL.FOCUS.VALUE = value
    encoder = FocusEncoder(cfg)
    named = {FOCUS_DETR.rename(key): value for key, value in weights_of(data).items()}
    own = {k.removeprefix("encoder."): v for k, v in named.items() if k.startswith("encoder.")}
    missing, unexpected = encoder.load_state_dict(own, strict=False)
    assert unexpected == []
    return encoder, named, missing


def test_foreground_scores_and_selection(golden, tiny_config):
    data = golden("focus_fts")
    encoder, named, _ = encoder_of(tiny_config, data, 300)
    tokens = flatten_levels(
        [torch.from_numpy(data[f"in/feat{i}"]) for i in range(4)],
        named["neck.level_embed"],
        CANVAS,
        strides=(8, 16, 32, 64),
        position=(20.0, 0.0),
    )
    head = ProposalHead(embed_dim=32, num_classes=7)
    head.load_state_dict(
        {k.removeprefix("proposal_head."): v for k, v in named.items() if "enc_output" in k},
        strict=False,
    )
    projected = head.project(tokens.features + tokens.position, token_anchors(tokens)[1])
    close(projected, data["mid/backbone_output_memory"])
    scores = encoder.scorer(projected, tokens.spatial_shapes)
    close(scores, data["out/foreground_logits_raw"])
    budgets = token_budgets(tokens.num_valid, 0.5)
    assert list(budgets) == data["out/focus_token_nums"].tolist()
    ratios = [0.5, 0.4, 0.3, 0.3, 0.2, 0.1]
    assert tokens_per_layer(214, ratios) == data["out/foreground_topk_per_layer"].tolist()
    kept = encoder(tokens, head).trace.kept
    for layer, selection in enumerate(kept):
        expected = data[f"out/foreground_inds{layer}"]
        np.testing.assert_array_equal(np.sort(selection.indices), np.sort(expected))


class RecordedScores(nn.Module):
    def __init__(self, scores):
        super().__init__()
        self.scores = scores

    def forward(self, projected, spatial_shapes):
        return self.scores


@pytest.mark.parametrize(
    ("value", "result"),
    [("frozen", "out/memory"), ("updated", "variant/value_updated_memory")],
)
def test_dual_attention_encoder(golden, tiny_config, value, result):
    data = golden("focus_encoder")
    encoder, named, missing = encoder_of(tiny_config, data, 30, value)
    assert all(name.startswith("scorer.") for name in missing)
    encoder.scorer = RecordedScores(torch.from_numpy(data["in/foreground_logits_masked"]))
    head = ProposalHead(embed_dim=32, num_classes=7)
    head.class_embed.weight.data = named["heads.class_embed.6.weight"]
    head.class_embed.bias.data = named["heads.class_embed.6.bias"]
    ratios = torch.from_numpy(data["in/valid_ratios"])
    tokens = FeatureTokens(
        features=torch.from_numpy(data["in/query"]),
        position=torch.from_numpy(data["in/query_pos"]),
        padding_mask=torch.from_numpy(data["in/mask"]),
        centers=torch.from_numpy(data["in/reference_points"])[:, :, 0] / ratios[:, :1],
        valid_ratios=ratios,
        spatial_shapes=tuple(map(tuple, data["in/spatial_shapes"].tolist())),
        num_valid=(426, 310),
    )
    output = encoder(tokens, head)
    close(output.memory, data[result])
    if value == "frozen":
        for layer, objects in enumerate(output.trace.objects):
            expected = data[f"out/object_inds{layer}"]
            np.testing.assert_array_equal(np.sort(objects.indices), np.sort(expected))


@pytest.mark.parametrize("ranges", ["code", "paper_overlap"])
def test_foreground_labels(golden, ranges):
    data = golden("focus_labels")
    size = torch.tensor([672.0, 512.0, 672.0, 512.0])
    boxes = box_convert(torch.from_numpy(data["in/boxes_xyxy_padded"]) / size, "xyxy", "cxcywh")
    boxes[torch.from_numpy(data["in/classes_padded"]) < 0] = 0
    shapes = tuple(map(tuple, data["in/spatial_shapes"].tolist()))
    tokens = FeatureTokens(
        *[torch.empty(0)] * 5,
        spatial_shapes=shapes,
        num_valid=(7144,) * 4,
        image_sizes=((512, 672),) * 4,
        strides=tuple(data["in/strides"].tolist()),
    )
    targets = Targets(torch.zeros(4, 4), boxes, tuple(data["in/num_boxes"].tolist()))
    limits = [tuple(limit) for limit in data[f"in/limit_range_{ranges}"].tolist()]
    rule = ForegroundRule(limits, scale_ranges_at=0, distance="max_side")
    labels = assign_foreground(tokens, targets, rule)
    np.testing.assert_array_equal(labels, data[f"out/labels_{ranges}"])


def test_foreground_loss_and_its_gradient(golden):
    data = golden("focus_focal")
    logits = torch.from_numpy(data["in/logits"]).requires_grad_()
    loss = foreground_loss(logits, torch.from_numpy(data["in/targets"]).bool())
    assert loss.item() == pytest.approx(data["out/mean"].item(), rel=1e-6)
    loss.backward()
    close(logits.grad, data["out/grad_of_mean"], atol=1e-6)


@pytest.fixture
def model(golden, tiny_config):
    data = golden("focus_full")
    cfg = focus_config(tiny_config, 3, [0.5, 0.3, 0.1], 25)
    model = build_model(cfg)
    converted, report = convert_state_dict(weights_of(data), cfg)
    assert report.missing == []
    assert report.unused == {}
    model.load_state_dict(converted)
    model.backbone.maps = {name: torch.from_numpy(data[f"in/{name}"]) for name in MAPS}
    return model, data, report


@pytest.mark.parametrize(
    ("result", "sizes"), [("out_eval", [(128, 160)] * 2), ("out_eval_masked", SIZES)]
)
def test_predictions_of_all_layers(model, result, sizes):
    detector, data, _ = model
    with torch.no_grad():
        outputs = detector.eval().forward_outputs(ImageList(CANVAS.tensor, sizes))
    layers = [*outputs.aux_outputs, (outputs.pred_logits, outputs.pred_boxes)]
    for layer, (logits, boxes) in enumerate(layers):
        close(logits, data[f"{result}/pred_logits_all"][layer])
        close(boxes, data[f"{result}/pred_boxes_all"][layer])
    close(outputs.proposal_outputs.logits, data[f"{result}/enc_logits"])
    close(outputs.proposal_outputs.boxes, data[f"{result}/enc_boxes"])


def test_detections(model):
    detector, data, _ = model
    canvas = torch.zeros(3, 128, 160)
    # Upstream takes the whole canvas for valid; it scales the boxes by the true sizes.
    outputs = detector.eval()([{"image": canvas, "height": 1, "width": 1}] * 2)
    for image, (height, width) in enumerate(SIZES):
        ours = outputs[image]["instances"]
        scale = 2.0 * torch.tensor([width, height, width, height])
        close(ours.scores, data[f"out_eval/det{image}_scores"])
        np.testing.assert_array_equal(ours.pred_classes, data[f"out_eval/det{image}_classes"])
        boxes = ours.pred_boxes.tensor * scale
        close(boxes, data[f"out_eval/det{image}_boxes"], atol=2e-5 * 320)


@pytest.mark.parametrize("name", golden_files("focus_train_*"))
def test_losses_and_gradients(model, golden, name):
    detector, _, report = model
    data = golden(name)
    batch = []
    for image, size in enumerate(SIZES):
        instances = Instances(size)
        instances.gt_boxes = Boxes(torch.from_numpy(data[f"in/gt_boxes{image}"]))
        instances.gt_classes = torch.from_numpy(data[f"in/gt_classes{image}"])
        batch.append({"image": torch.zeros(3, *size), "instances": instances})
    chance = torch.from_numpy(data["noise/label_p"])
    labels = torch.zeros(len(chance), dtype=torch.int64)
    labels[chance < 0.25] = torch.from_numpy(data["noise/label_new"])
    sign = torch.from_numpy(data["noise/box_sign01"]) * 2 - 1
    noise = Noise(chance, labels, sign, torch.from_numpy(data["noise/box_rand"]))
    detector.denoising.sample_noise = lambda count, device: noise
    losses = detector.train()(batch)
    names = [
        name.replace("select_loss", "loss_foreground") for name in data["out/loss_names"].tolist()
    ]
    assert sorted(losses) == sorted(names)
    for name, expected in zip(names, data["out/loss_weighted"].tolist(), strict=True):
        assert losses[name].item() == pytest.approx(expected, rel=1e-5), name
    sum(losses.values()).backward()
    parameters = dict(detector.named_parameters())
    gradients = zip(data["out/grad_names"].tolist(), data["out/grad_norms"].tolist(), strict=True)
    for name, norm in gradients:
        (ours,) = report.used[name]
        assert parameters[ours].grad.norm().item() == pytest.approx(norm, rel=1e-4, abs=1e-5), name
        if f"grad/{name}" in data:
            close(parameters[ours].grad, data[f"grad/{name}"], atol=2e-5 * max(1.0, norm))
        parameters.pop(ours)
    assert parameters == {}
