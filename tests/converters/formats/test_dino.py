import pytest

from lite_focus_detr.converters.formats.dino import DINO

RENAMED = {
    "backbone.0.body.layer2.0.downsample.1.bias": "backbone.res3.0.shortcut.norm.bias",
    "backbone.0.layers.0.blocks.1.attn.qkv.weight": "backbone.layers.0.blocks.1.attn.qkv.weight",
    "transformer.enc_out_class_embed.bias": "proposal_head.class_embed.bias",
    "transformer.enc_out_bbox_embed.layers.1.weight": "proposal_head.bbox_embed.layers.1.weight",
    "transformer.enc_output.weight": "proposal_head.enc_output.weight",
    "transformer.decoder.norm.weight": "decoder.norm.weight",
    "transformer.decoder.ref_point_head.layers.0.bias": "decoder.ref_point_head.layers.0.bias",
    "transformer.decoder.bbox_embed.4.layers.0.bias": "heads.bbox_embed.4.layers.0.bias",
    "bbox_embed.4.layers.0.bias": "heads.bbox_embed.4.layers.0.bias",
    "transformer.tgt_embed.weight": "query_selector.tgt_embed.weight",
    "label_enc.weight": "denoising.label_enc.weight",
}


@pytest.mark.parametrize(("key", "name"), RENAMED.items())
def test_keys_of_the_original_release_get_our_names(key, name):
    assert DINO.rename(key) == name


def test_settings_are_those_of_the_original_release(manifest):
    assert DINO.settings(manifest("dino_4scale_ideaofficial").tensors, {}) == {
        "MODEL.DETR.POSITION.TEMPERATURE": 20.0,
        "MODEL.DETR.POSITION.OFFSET": 0.0,
        "MODEL.DETR.INVERSE_SIGMOID_EPS": 1e-3,
        "MODEL.DETR.QUERY_SELECTION": "mixed",
        "MODEL.DETR.CLASS_AGNOSTIC_PROPOSALS": False,
        "MODEL.DETR.BOX_REFINE": True,
    }
