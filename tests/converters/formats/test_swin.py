import torch
import torchvision
from detectron2.modeling.backbone.swin import SwinTransformer
from torch.nn.functional import layer_norm

from lite_focus_detr.converters import BACKBONE_FORMATS, convert_state_dict

RELEASED = [
    "patch_embed.proj.weight",
    "patch_embed.norm.bias",
    "layers.0.blocks.1.attn.relative_position_index",
    "layers.0.blocks.1.attn_mask",
    "layers.2.downsample.reduction.weight",
    "norm.weight",
    "head.bias",
]


def test_released_swin_goes_under_backbone_without_its_classifier(config):
    names = [f"backbone.{key}" for key in RELEASED[:5]] + ["backbone.norm1.weight"]

    converted, report = convert_state_dict(
        {key: torch.ones(1) for key in RELEASED}, config(), expected=names
    )

    assert report.format == "swin"
    assert report.format in BACKBONE_FORMATS
    assert list(converted) == [f"backbone.{RELEASED[i]}" for i in (0, 1, 4)]
    assert report.missing == ["backbone.norm1.weight"]
    assert set(report.unused) == {RELEASED[i] for i in (2, 3, 5, 6)}


def test_torchvision_swin_gives_the_same_features_in_detectron2(config):
    torch.manual_seed(0)
    source = torchvision.models.swin_t(weights=None).eval()
    for parameter in source.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    backbone = SwinTransformer(out_indices=(1, 2, 3)).eval()
    names = [f"backbone.{key}" for key in backbone.state_dict()]

    converted, report = convert_state_dict(source.state_dict(), config(), expected=names)

    # The norms of the outputs belong to the detector.
    assert report.missing == [
        f"backbone.norm{i}.{p}" for i in (1, 2, 3) for p in ("weight", "bias")
    ]
    state = {key.removeprefix("backbone."): tensor for key, tensor in converted.items()}
    backbone.load_state_dict(state, strict=False)
    # Stages of 28x28, 14x14 and 7x7; the releases treat only windows beyond the last alike.
    image = torch.randn(1, 3, 112, 112)
    with torch.no_grad():
        features = backbone(image)
        x = source.features[:4](image)
        expected = layer_norm(x, x.shape[-1:]).permute(0, 3, 1, 2)
    torch.testing.assert_close(features["p1"], expected, rtol=1e-4, atol=1e-4)
