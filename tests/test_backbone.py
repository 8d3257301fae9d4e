"""Backbones of timm and detectron2's Swin Transformer."""

import pytest
import timm
import torch
from detectron2.modeling import build_backbone, build_model


def test_a_detector_of_every_timm_layout_runs(tiny_config, make_batch):
    for name in ("test_resnet", "swin_tiny_patch4_window7_224"):
        cfg = tiny_config("dino")
        cfg.MODEL.TIMM.NAME = name
        sizes = ((96, 160), (64, 96))
        assert len(build_model(cfg).eval()(make_batch((0, 0), sizes))) == 2


def test_a_timm_model_without_the_wanted_maps_is_refused(tiny_config):
    cfg = tiny_config("dino", IN_FEATURES=["res3", "res4", "res6"])
    with pytest.raises(ValueError, match=r"IN_FEATURES is \['res3', 'res4', 'res6'\]; this"):
        build_model(cfg)
    cfg.MODEL.TIMM.NAME = "maxvit_nano_rw_256"  # Only images of 256 x 256.
    with pytest.raises(ValueError, match="images of any size"):
        build_model(cfg)
    cfg.MODEL.TIMM.NAME = "no_such_model"
    with pytest.raises(ValueError, match="no_such_model"):
        build_model(cfg)


def test_the_swin_transformer_gives_the_wanted_maps(tiny_config):
    cfg = tiny_config("dino", IN_FEATURES=["p1", "p3"])
    cfg.MODEL.BACKBONE.NAME = "build_swin_backbone"
    cfg.MODEL.SWIN.EMBED_DIM, cfg.MODEL.SWIN.NUM_HEADS = 12, [1, 2, 4, 8]
    cfg.MODEL.SWIN.DEPTHS = [1, 1, 1, 1]
    maps = build_backbone(cfg).eval()(torch.zeros(1, 3, 64, 96))
    # Each stage halves the map and doubles the channels.
    shapes = {name: tuple(x.shape) for name, x in maps.items()}
    assert shapes == {"p1": (1, 24, 8, 12), "p3": (1, 96, 2, 3)}


@pytest.mark.parametrize("name", ["test_resnet", "swin_tiny_patch4_window7_224"])
def test_maps_of_timm_models_have_channels_first_and_the_axes_of_the_image(tiny_config, name):
    cfg = tiny_config("dino", IN_FEATURES=["res3", "res5"])
    cfg.MODEL.TIMM.NAME = name
    backbone = build_backbone(cfg).eval()
    maps = backbone(torch.zeros(1, 3, 64, 96))
    for level, stride in (("res3", 8), ("res5", 32)):
        shape = backbone.output_shape()[level]
        assert shape.stride == stride
        assert maps[level].shape == (1, shape.channels, 64 // stride, 96 // stride)


def test_images_are_padded_to_whole_patches(tiny_config):
    cfg = tiny_config("dino", IN_FEATURES=["res3", "res5"])
    cfg.MODEL.TIMM.NAME = "swin_tiny_patch4_window7_224"
    backbone, x = build_backbone(cfg).eval(), torch.randn(1, 3, 61, 98)
    padded = torch.zeros(1, 3, 64, 100)
    padded[..., :61, :98] = x
    for name, found in backbone(x).items():
        torch.testing.assert_close(
            found, backbone.model(padded)[name == "res5"].permute(0, 3, 1, 2)
        )


@pytest.mark.parametrize(
    ("name", "stride"),
    # Both add maps of several strides to each other, which must halve without a rest.
    [("hrnet_w18_small", 2), ("hieradet_small", 4)],
)
def test_images_are_padded_further_where_whole_patches_are_not_enough(tiny_config, name, stride):
    cfg = tiny_config("dino", IN_FEATURES=["res3", "res5"])
    cfg.MODEL.TIMM.NAME = name
    backbone, x = build_backbone(cfg).eval(), torch.zeros(1, 3, 170, 133)
    assert backbone.divisor == 32 > stride
    # 170 and 133 are padded to 192 and 160.
    assert [tuple(found.shape[2:]) for found in backbone(x).values()] == [(24, 20), (6, 5)]


@pytest.mark.parametrize("pretrained", [True, False])
def test_weights_of_timm_are_taken_if_asked_for(tiny_config, monkeypatch, pretrained):
    asked, create_model = [], timm.create_model

    def create(name, pretrained=False, **options):
        asked.append(pretrained)
        return create_model(name, **options)

    monkeypatch.setattr(timm, "create_model", create)
    cfg = tiny_config("dino")
    cfg.MODEL.TIMM.PRETRAINED = pretrained
    build_backbone(cfg)
    assert any(asked) == pretrained


@pytest.mark.parametrize(("freeze_at", "trained"), [(-1, [True] * 3), (2, [False, False, True])])
def test_stages_of_the_swin_transformer_are_frozen_up_to_the_wanted_one(
    tiny_config, freeze_at, trained
):
    cfg = tiny_config("dino", IN_FEATURES=["p1", "p3"])
    cfg.MODEL.BACKBONE.NAME = "build_swin_backbone"
    cfg.MODEL.SWIN.EMBED_DIM, cfg.MODEL.SWIN.NUM_HEADS = 12, [1, 2, 4, 8]
    cfg.MODEL.SWIN.FREEZE_AT = freeze_at
    backbone = build_backbone(cfg)
    parts = (backbone.patch_embed, backbone.layers[0], backbone.layers[3])
    assert [all(p.requires_grad for p in part.parameters()) for part in parts] == trained
