"""Formats of MMDetection; the manifests are state dicts of its 3.3.0, built from its configs."""

import pytest
import torch
from detectron2.modeling import build_model

from lite_focus_detr.converters import convert_state_dict
from lite_focus_detr.converters.formats.mmdetection import MMDET_DEFORMABLE_DETR, MMDET_DINO

DEFORMABLE, REFINE, TWO_STAGE, DINO = (
    f"mmdet_{name}_r50"
    for name in ("deformable", "deformable_refine", "deformable_two_stage", "dino")
)
# Its DINO has heads of their own for all layers.
FILES = [
    (DEFORMABLE, "deformable_detr_r50_50ep", "mmdet_deformable_detr"),
    (REFINE, "deformable_detr_refine_r50_50ep", "mmdet_deformable_detr"),
    (TWO_STAGE, "deformable_detr_two_stage_r50_50ep", "mmdet_deformable_detr"),
    (DINO, "dino_r50_12ep", "mmdet_dino"),
]


# Written down from the two repositories' module trees.
RENAMED = {
    "backbone.layer1.0.downsample.1.running_var": "backbone.res2.0.shortcut.norm.running_var",
    "neck.convs.2.conv.weight": "neck.input_proj.2.0.weight",
    "neck.convs.2.gn.bias": "neck.input_proj.2.1.bias",
    "neck.extra_convs.0.gn.weight": "neck.input_proj.3.1.weight",
    "level_embed": "neck.level_embed",
    "encoder.layers.3.ffn.layers.0.0.weight": "encoder.layers.3.linear1.weight",
    "encoder.layers.3.ffn.layers.1.bias": "encoder.layers.3.linear2.bias",
    "encoder.layers.3.norms.1.bias": "encoder.layers.3.norm2.bias",
    "decoder.layers.3.self_attn.attn.out_proj.bias": "decoder.layers.3.self_attn.out_proj.bias",
    "decoder.layers.3.cross_attn.value_proj.bias": "decoder.layers.3.cross_attn.value_proj.bias",
    "decoder.layers.3.norms.0.weight": "decoder.layers.3.norm2.weight",
    "decoder.layers.3.norms.1.weight": "decoder.layers.3.norm1.weight",
    "decoder.layers.3.norms.2.weight": "decoder.layers.3.norm3.weight",
    "bbox_head.cls_branches.6.bias": "heads.class_embed.6.bias",
    "bbox_head.reg_branches.0.0.weight": "heads.bbox_embed.0.layers.0.weight",
    "bbox_head.reg_branches.0.2.weight": "heads.bbox_embed.0.layers.1.weight",
    "bbox_head.reg_branches.10.4.bias": "heads.bbox_embed.10.layers.2.bias",
    "memory_trans_fc.weight": "proposal_head.enc_output.weight",
    "memory_trans_norm.weight": "proposal_head.enc_output_norm.weight",
    "pos_trans_norm.bias": "query_selector.pos_trans_norm.bias",
    "reference_points_fc.weight": "query_selector.reference_points.weight",
    "dn_query_generator.label_embedding.weight": "denoising.label_enc.weight",
}


@pytest.mark.parametrize(("key", "name"), RENAMED.items())
def test_keys_of_mmdetection_get_our_names(key, name):
    assert MMDET_DEFORMABLE_DETR.rename(key) == name
    assert MMDET_DINO.rename(key) == name


def test_the_query_embedding_is_position_and_content_or_content_alone():
    key = "query_embedding.weight"
    assert MMDET_DEFORMABLE_DETR.rename(key) == "query_selector.query_embed.weight"
    assert MMDET_DINO.rename(key) == "query_selector.tgt_embed.weight"


@pytest.mark.parametrize(("name", "leaf", "format_name"), FILES)
def test_file_fills_the_model_and_every_tensor_is_accounted_for(
    name, leaf, format_name, published, manifest, config
):
    source = published(name)
    cfg = config(leaf, "MODEL.DEVICE", "cpu", "MODEL.DETR.INVERSE_SIGMOID_EPS", 1e-5)
    if name == DINO:
        cfg.MODEL.DETR.INVERSE_SIGMOID_EPS = 1e-3
    model = build_model(cfg)

    converted, report = convert_state_dict(source, cfg, expected=model.state_dict())

    assert report.format == format_name
    assert (report.missing, report.unplaced, report.differences) == ([], [], [])
    assert set(report.used) | set(report.unused) == set(source)
    counters = {key for key in source if key.endswith("num_batches_tracked")}
    aliases = manifest(name).aliases
    assert set(report.unused) == counters | set(aliases)
    assert len(counters) == 53
    assert {report.unused[key] for key in aliases} == {
        f"alias of {key}" for key in set(aliases.values())
    }
    biases = {f"neck.input_proj.{level}.0.bias" for level in range(4)}
    filled = [name for names in report.used.values() for name in names]
    assert sorted([*filled, *biases]) == sorted(converted)
    for bias in biases:
        assert torch.equal(converted[bias], torch.zeros(256))
    model.load_state_dict(converted, strict=True)


def test_a_bias_of_the_neck_that_the_file_has_is_taken(published, config):
    source = published(DEFORMABLE) | {"neck.convs.1.conv.bias": torch.ones(256)}

    converted, _ = convert_state_dict(source, config("deformable_detr_r50_50ep"))

    assert torch.equal(converted["neck.input_proj.1.0.bias"], torch.ones(256))
    assert not converted["neck.input_proj.0.0.bias"].any()


@pytest.mark.parametrize(
    ("name", "selection", "refine"),
    [(DEFORMABLE, "learned", None), (REFINE, "learned", None), (TWO_STAGE, "two_stage", True)],
)
def test_settings_of_deformable_detr_are_those_of_its_configurations(
    name, selection, refine, manifest
):
    settings = MMDET_DEFORMABLE_DETR.settings(manifest(name).tensors, {})

    assert settings["MODEL.DETR.POSITION.TEMPERATURE"] == 10000.0
    assert settings["MODEL.DETR.POSITION.OFFSET"] == -0.5
    assert settings["MODEL.DETR.INVERSE_SIGMOID_EPS"] == 1e-5
    assert settings["MODEL.DETR.QUERY_SELECTION"] == selection
    assert settings["MODEL.DETR.CLASS_AGNOSTIC_PROPOSALS"] is (selection == "two_stage")
    # The names of the other two are the same: the user is told that this cannot be known.
    assert settings.get("MODEL.DETR.BOX_REFINE") is refine
    assert MMDET_DEFORMABLE_DETR.hidden == ("MODEL.DETR.BOX_REFINE",)


def test_settings_of_dino_are_those_of_its_configurations(manifest, config):
    tensors = manifest(DINO).tensors
    settings = MMDET_DINO.settings(tensors, {})

    assert [(x["TEMPERATURE"], x["OFFSET"]) for x in settings["MODEL.DETR.POSITION"]] == [
        (10000.0, -0.5),
        (20.0, 0.0),
    ]
    assert settings["MODEL.DETR.INVERSE_SIGMOID_EPS"] == 1e-3
    assert settings["MODEL.DETR.QUERY_SELECTION"] == "mixed"
    assert settings["MODEL.DETR.BOX_REFINE"] is True
    (note,) = MMDET_DINO.notes(tensors, {}, config())
    assert "1e-3" in note
    assert "1e-5" in note


def test_two_stage_file_in_a_one_stage_configuration_is_named(published, config):
    cfg = config("deformable_detr_refine_r50_50ep")

    report = convert_state_dict(published(TWO_STAGE), cfg).report

    assert any("QUERY_SELECTION two_stage" in line for line in report.differences)
    assert "query_selector.pos_trans.weight" in report.unplaced


def test_other_classes_leave_the_class_heads_untrained(published, config):
    cfg = config("dino_r50_12ep", "MODEL.DETR.NUM_CLASSES", 3)

    converted, report = convert_state_dict(published(DINO), cfg)

    assert "heads.class_embed.0.bias" in report.missing
    assert "denoising.label_enc.weight" in report.missing
    assert "heads.bbox_embed.0.layers.0.bias" in converted
