import pytest

from lite_focus_detr.converters.formats.deformable_detr import DEFORMABLE_DETR

# Written down from the two repositories' module trees.
RENAMED = {
    "backbone.0.body.conv1.weight": "backbone.stem.conv1.weight",
    "backbone.0.body.bn1.running_var": "backbone.stem.conv1.norm.running_var",
    "backbone.0.body.layer1.0.downsample.0.weight": "backbone.res2.0.shortcut.weight",
    "backbone.0.body.layer4.2.bn3.bias": "backbone.res5.2.conv3.norm.bias",
    "input_proj.3.1.weight": "neck.input_proj.3.1.weight",
    "transformer.level_embed": "neck.level_embed",
    "transformer.encoder.layers.5.self_attn.sampling_offsets.bias": (
        "encoder.layers.5.self_attn.sampling_offsets.bias"
    ),
    "transformer.decoder.layers.0.cross_attn.value_proj.weight": (
        "decoder.layers.0.cross_attn.value_proj.weight"
    ),
    "transformer.decoder.layers.0.self_attn.in_proj_weight": (
        "decoder.layers.0.self_attn.in_proj_weight"
    ),
    "class_embed.2.weight": "heads.class_embed.2.weight",
    "transformer.decoder.class_embed.2.weight": "heads.class_embed.2.weight",
    "transformer.decoder.bbox_embed.6.layers.2.bias": "heads.bbox_embed.6.layers.2.bias",
    "query_embed.weight": "query_selector.query_embed.weight",
    "transformer.reference_points.bias": "query_selector.reference_points.bias",
    "transformer.pos_trans_norm.weight": "query_selector.pos_trans_norm.weight",
    "transformer.enc_output_norm.bias": "proposal_head.enc_output_norm.bias",
}


@pytest.mark.parametrize(("key", "name"), RENAMED.items())
def test_keys_of_the_original_release_get_our_names(key, name):
    assert DEFORMABLE_DETR.rename(key) == name


@pytest.mark.parametrize(
    ("name", "selection", "refine"),
    [
        ("deformable_detr_base", "learned", False),
        ("deformable_detr_refine", "learned", True),
        ("deformable_detr_two_stage", "two_stage", True),
    ],
)
def test_variant_is_told_from_the_keys(name, selection, refine, manifest):
    settings = DEFORMABLE_DETR.settings(manifest(name).tensors, {})

    assert settings["MODEL.DETR.QUERY_SELECTION"] == selection
    assert settings["MODEL.DETR.CLASS_AGNOSTIC_PROPOSALS"] is (selection == "two_stage")
    assert settings["MODEL.DETR.BOX_REFINE"] is refine
    assert settings["MODEL.DETR.POSITION.TEMPERATURE"] == 10000.0
    assert settings["MODEL.DETR.POSITION.OFFSET"] == -0.5
    assert settings["MODEL.DETR.INVERSE_SIGMOID_EPS"] == 1e-5
