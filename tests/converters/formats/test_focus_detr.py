import pytest

from lite_focus_detr.converters import convert_state_dict, detect_format
from lite_focus_detr.converters.formats.focus_detr import FOCUS_DETR

RENAMED = {
    "transformer.alpha": "encoder.scorer.alpha",
    "transformer.enc_mask_predictor.layer2.4.bias": "encoder.scorer.layer2.4.bias",
    "transformer.encoder.layers.2.attentions.0.attn.in_proj_bias": (
        "encoder.dual_attention.2.self_attn.in_proj_bias"
    ),
    "transformer.encoder.layers.2.norm2.weight": "encoder.dual_attention.2.norm.weight",
    "transformer.encoder.layers.2.attentions.1.value_proj.bias": (
        "encoder.layers.2.self_attn.value_proj.bias"
    ),
    "transformer.encoder.layers.2.norms.0.weight": "encoder.layers.2.norm1.weight",
    "transformer.encoder.layers.2.norms.1.weight": "encoder.layers.2.norm2.weight",
    "transformer.decoder.layers.2.attentions.1.value_proj.bias": (
        "decoder.layers.2.cross_attn.value_proj.bias"
    ),
    "enhance_MCSP_layerlist.3.bias": "heads.class_embed.6.bias",
    "transformer.encoder.enhance_MCSP.5.bias": "heads.class_embed.6.bias",
}


@pytest.mark.parametrize(("key", "name"), RENAMED.items())
def test_focus_detr_keys_get_our_names(key, name):
    assert FOCUS_DETR.rename(key) == name


@pytest.mark.parametrize(
    ("name", "leaf"),
    [
        ("focus_detr_r50_4scale", "focus_dino_r50_36ep"),
        ("focus_detr_r50_4scale", "focus_dino_r50_12ep"),
        ("focus_detr_swin_tiny", "focus_dino_swin_tiny_36ep"),
    ],
)
def test_every_tensor_of_a_published_file_is_used_once(name, leaf, published, manifest, config):
    weights = published(name)
    assert detect_format(weights) == "focus_detr"
    converted, report = convert_state_dict(weights, config(leaf, "MODEL.DEVICE", "cpu"))
    assert report.missing == []
    assert (report.unplaced, report.differences) == ([], [])
    (note,) = report.notes
    assert "Cannot be known" in note
    assert "MODEL.FOCUS.KEEP_RATIOS, MODEL.FOCUS.OBJECT_TOKENS" in note
    aliases = [key for key, reason in report.unused.items() if reason.startswith("alias of")]
    assert len(aliases) == 80
    constants = [key for key in report.unused if key not in aliases]
    assert all(key.endswith("relative_position_index") for key in constants)
    assert len(converted) == len(weights) - len(report.unused)


def test_the_position_of_a_swin_file_is_checked(published, config):
    cfg = config("focus_dino_swin_tiny_36ep", "MODEL.DETR.POSITION.TEMPERATURE", 20.0)
    _, report = convert_state_dict(published("focus_detr_swin_tiny"), cfg, expected=[])
    (difference,) = report.differences
    assert "MODEL.DETR.POSITION.TEMPERATURE 20.0" in difference
    assert (
        "set MODEL.DETR.POSITION.TEMPERATURE 10000.0 MODEL.DETR.POSITION.OFFSET -0.5" in difference
    )


def test_a_mixture_of_positions_that_no_resnet_file_has_is_noted(published, config):
    cfg = config("focus_dino_r50_36ep", "MODEL.DETR.POSITION.OFFSET", -0.5)
    assert cfg.MODEL.DETR.POSITION.TEMPERATURE == 20.0
    _, report = convert_state_dict(published("focus_detr_r50_4scale"), cfg, expected=[])
    (difference,) = report.differences
    assert (
        "set MODEL.DETR.POSITION.TEMPERATURE 10000.0 MODEL.DETR.POSITION.OFFSET -0.5 or "
        "MODEL.DETR.POSITION.TEMPERATURE 20.0 MODEL.DETR.POSITION.OFFSET 0.0"
    ) in difference


def test_choices_that_do_not_fit_the_weights_are_noted(published, config):
    cfg = config("focus_dino_r50_36ep", "MODEL.FOCUS.VALUE", "updated")
    _, report = convert_state_dict(published("focus_detr_r50_4scale"), cfg, expected=[])
    (difference,) = report.differences
    assert "MODEL.FOCUS.VALUE updated: set MODEL.FOCUS.VALUE frozen" in difference


def test_object_attention_that_the_model_lacks_is_unplaced(published, config):
    cfg = config("focus_dino_r50_36ep", "MODEL.FOCUS.OBJECT_TOKENS", 0, "MODEL.DEVICE", "cpu")
    _, report = convert_state_dict(published("focus_detr_r50_4scale"), cfg)
    assert len(report.unplaced) == 36  # Four of the attention, two of the norm, in six layers.
    assert all(name.startswith("encoder.dual_attention.") for name in report.unplaced)


def test_a_released_file_starts_the_interleaved_encoder_that_selects_tokens(published, config):
    leaf = "lite_focus_dino_h2l2_2p1x3_keep30_plain_r50_36ep"
    options = ["MODEL.LITE_FOCUS.OBJECT_TOKENS", 300, "MODEL.DETR.SHARE_HEADS", False]
    weights = published("focus_detr_r50_4scale")
    converted, report = convert_state_dict(weights, config(leaf, "MODEL.DEVICE", "cpu", *options))
    # The small feed-forward part of the low levels, in the last layer of each of three blocks.
    parts = {"linear12", "linear22", "norm22"}
    assert {name.split(".")[-2] for name in report.missing} == parts
    assert {name.split(".")[2] for name in report.missing} == {"1", "3", "5"}
    # Dual attention stands only before these layers.
    assert {name.split(".")[1] for name in report.unplaced} == {"dual_attention"}
    assert {name.split(".")[2] for name in report.unplaced} == {"0", "2", "4"}
    key = "transformer.encoder.layers.3.attentions.0.attn.in_proj_bias"
    assert converted["encoder.dual_attention.3.self_attn.in_proj_bias"] is weights[key]
