import pytest

from lite_focus_detr.converters.formats.detrex import DETREX

RENAMED = {
    "backbone.res2.0.shortcut.norm.weight": "backbone.res2.0.shortcut.norm.weight",
    "neck.convs.2.conv.bias": "neck.input_proj.2.0.bias",
    "neck.convs.2.norm.weight": "neck.input_proj.2.1.weight",
    "neck.extra_convs.0.conv.weight": "neck.input_proj.3.0.weight",
    "neck.extra_convs.0.norm.bias": "neck.input_proj.3.1.bias",
    "transformer.level_embeds": "neck.level_embed",
    "transformer.encoder.layers.3.attentions.0.output_proj.bias": (
        "encoder.layers.3.self_attn.output_proj.bias"
    ),
    "transformer.encoder.layers.3.ffns.0.layers.0.0.weight": "encoder.layers.3.linear1.weight",
    "transformer.encoder.layers.3.ffns.0.layers.1.weight": "encoder.layers.3.linear2.weight",
    "transformer.encoder.layers.3.norms.0.bias": "encoder.layers.3.norm1.bias",
    "transformer.encoder.layers.3.norms.1.bias": "encoder.layers.3.norm2.bias",
    "transformer.decoder.layers.3.attentions.0.attn.in_proj_bias": (
        "decoder.layers.3.self_attn.in_proj_bias"
    ),
    "transformer.decoder.layers.3.attentions.1.attention_weights.bias": (
        "decoder.layers.3.cross_attn.attention_weights.bias"
    ),
    "transformer.decoder.layers.3.norms.0.weight": "decoder.layers.3.norm2.weight",
    "transformer.decoder.layers.3.norms.1.weight": "decoder.layers.3.norm1.weight",
    "transformer.decoder.layers.3.norms.2.weight": "decoder.layers.3.norm3.weight",
    "transformer.decoder.query_scale.layers.1.bias": "decoder.query_scale.layers.1.bias",
    "query_embedding.weight": "query_selector.query_embed.weight",
    "tgt_embed.weight": "query_selector.tgt_embed.weight",
    "transformer.tgt_embed.weight": "query_selector.tgt_embed.weight",
    "refpoint_embed.weight": "query_selector.refpoint_embed.weight",
    "label_enc.weight": "denoising.label_enc.weight",
    "denoising_generator.label_encoder.weight": "denoising.label_enc.weight",
}


@pytest.mark.parametrize(("key", "name"), RENAMED.items())
def test_detrex_keys_get_our_names(key, name):
    assert DETREX.rename(key) == name


@pytest.mark.parametrize(
    ("name", "selection", "refine"),
    [
        ("detrex_deformable_detr_r50", "learned", False),
        ("detrex_deformable_detr_r50_box_refine", "learned", True),
        ("detrex_deformable_detr_r50_two_stage", "two_stage", True),
        ("detrex_dn_deformable_detr_r50", "learned", True),
        ("detrex_dino_r50_4scale", "mixed", True),
    ],
)
def test_variant_is_told_from_the_keys(name, selection, refine, manifest):
    settings = DETREX.settings(manifest(name).tensors, {})

    assert settings["MODEL.DETR.QUERY_SELECTION"] == selection
    assert settings["MODEL.DETR.BOX_REFINE"] is refine


@pytest.mark.parametrize(
    ("name", "positions"),
    [
        ("detrex_deformable_detr_r50", [(10000.0, -0.5)]),
        ("detrex_dn_deformable_detr_r50", [(10000.0, -0.5)]),
        # Of 12 epochs, and of 24 or 36.
        ("detrex_dino_r50_4scale", [(10000.0, -0.5), (20.0, 0.0)]),
    ],
)
def test_positions_and_eps_are_those_of_the_release(name, positions, manifest):
    settings = DETREX.settings(manifest(name).tensors, {})
    found = settings["MODEL.DETR.POSITION"]
    found = found if isinstance(found, tuple) else (found,)
    assert [(x["TEMPERATURE"], x["OFFSET"]) for x in found] == positions
    assert settings["MODEL.DETR.INVERSE_SIGMOID_EPS"] == 1e-3
