import pytest
import torch
import torchvision
from detectron2.modeling import build_backbone

from lite_focus_detr.converters import BACKBONE_FORMATS, convert_state_dict, detect_format


def randomised(model):
    """Batch-norm statistics away from 0 and 1, so that a mixed-up one shows."""
    generator = torch.Generator().manual_seed(0)
    for name, tensor in model.state_dict().items():
        if name.endswith(("running_mean", "bias")):
            tensor.normal_(0, 0.1, generator=generator)
        elif name.endswith("running_var") or (tensor.dim() == 1 and name.endswith("weight")):
            tensor.uniform_(0.5, 1.5, generator=generator)
    return model.eval()


def resnet_config(config):
    return config(
        None, "MODEL.BACKBONE.NAME", "build_resnet_backbone", "MODEL.RESNETS.DEPTH", 50,
        "MODEL.RESNETS.STRIDE_IN_1X1", False, "MODEL.RESNETS.OUT_FEATURES", ["res2", "res5"],
        "INPUT.FORMAT", "RGB",
    )  # fmt: skip


@pytest.mark.parametrize("prefix", ["", "backbone."])
def test_torchvision_resnet_gives_the_same_features_in_detectron2(prefix, config):
    source = randomised(torchvision.models.resnet50(weights=None))
    cfg = resnet_config(config)
    backbone = build_backbone(cfg).eval()
    names = [f"backbone.{name}" for name in backbone.state_dict()]
    weights = {prefix + key: tensor for key, tensor in source.state_dict().items()}

    converted, report = convert_state_dict(weights, cfg, expected=names)

    assert report.format == "torchvision_resnet"
    assert report.format in BACKBONE_FORMATS
    assert report.missing == []
    assert report.notes == []
    # The configuration is one that gives the same features, as is checked below.
    assert report.differences == []
    assert {k for k in report.unused if not k.endswith("num_batches_tracked")} == {
        f"{prefix}fc.weight",
        f"{prefix}fc.bias",
    }
    backbone.load_state_dict({k.removeprefix("backbone."): v for k, v in converted.items()})
    image = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        features = backbone(image)
        stem = source.maxpool(source.relu(source.bn1(source.conv1(image))))
        res2 = source.layer1(stem)
        res5 = source.layer4(source.layer3(source.layer2(res2)))
    torch.testing.assert_close(features["res2"], res2, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(features["res5"], res5, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("prefix", ["", "backbone."])
def test_detectron2_resnet_fills_the_backbone(prefix, config):
    cfg = resnet_config(config)
    state = build_backbone(cfg).state_dict()
    weights = {f"{prefix}{key}": tensor for key, tensor in state.items()}
    weights[f"{prefix}stem.fc.bias"] = torch.ones(1000)

    converted, report = convert_state_dict(weights, cfg, [f"backbone.{key}" for key in state])

    assert report.format == "detectron2_resnet"
    assert report.missing == []
    assert list(report.unused) == [f"{prefix}stem.fc.bias"]
    assert torch.equal(converted["backbone.stem.conv1.weight"], state["stem.conv1.weight"])


def test_caffe2_resnet_gets_detectron2_names_and_its_settings_are_noted(config):
    blobs = {
        "conv1_w": torch.ones(1),
        "res_conv1_bn_s": torch.ones(2),
        "res2_0_branch2a_w": torch.ones(3),
        "res2_0_branch1_bn_b": torch.ones(4),
        "fc1000_w": torch.ones(5),
    }
    names = {
        "backbone.stem.conv1.weight": 1,
        "backbone.stem.conv1.norm.weight": 2,
        "backbone.res2.0.conv1.weight": 3,
        "backbone.res2.0.shortcut.norm.bias": 4,
    }

    converted, report = convert_state_dict(blobs, resnet_config(config), expected=names)

    assert {name: len(tensor) for name, tensor in converted.items()} == names
    assert list(report.unused) == ["fc1000_w"]
    assert [note.rpartition(": ")[2].split(" to ")[0] for note in report.differences] == [
        "set MODEL.RESNETS.STRIDE_IN_1X1 True",
        "set INPUT.FORMAT BGR",
    ]


def test_detector_on_a_resnet_is_no_backbone_file():
    with pytest.raises(ValueError, match="unknown model"):
        detect_format(["backbone.res2.0.conv1.weight", "roi_heads.box_head.fc1.weight"])
