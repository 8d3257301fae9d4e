import numpy as np
import pytest
import torch
from detectron2.modeling import build_model

from lite_focus_detr.converters import convert_state_dict, detect_format, unwrap

# Published file, the configuration that loads it, further keys, the format.
PUBLISHED = [
    ("deformable_detr_base", "deformable_detr_r50_50ep", "deformable_detr"),
    ("deformable_detr_refine", "deformable_detr_refine_r50_50ep", "deformable_detr"),
    ("deformable_detr_two_stage", "deformable_detr_two_stage_r50_50ep", "deformable_detr"),
    ("dino_4scale_ideaofficial", "dino_r50_36ep", "dino"),
    ("lite_dino_h2l2_2p1x3", "lite_dino_h2l2_2p1x3_r50_36ep", "lite_dino"),
    ("lite_dino_h3l1_6p1x1", "lite_dino_h3l1_6p1x1_r50_36ep", "lite_dino"),
    ("lite_dino_h3l1_2p1x3", "lite_dino_h3l1_2p1x3_r50_36ep", "lite_dino"),
    ("detrex_deformable_detr_r50", "deformable_detr_r50_50ep", "detrex"),
    ("detrex_deformable_detr_r50_box_refine", "deformable_detr_refine_r50_50ep", "detrex"),
    ("detrex_deformable_detr_r50_two_stage", "deformable_detr_two_stage_r50_50ep", "detrex"),
    ("detrex_dn_deformable_detr_r50", "dn_deformable_detr_r50_50ep", "detrex"),
    ("detrex_dino_r50_4scale", "dino_r50_12ep", "detrex"),
]


@pytest.mark.parametrize(("name", "leaf", "format_name"), PUBLISHED)
def test_published_file_fills_the_model_and_every_tensor_is_accounted_for(
    name, leaf, format_name, published, manifest, config
):
    source = published(name)
    cfg = config(leaf, "MODEL.DEVICE", "cpu")
    model = build_model(cfg)

    converted, report = convert_state_dict(source, cfg, expected=model.state_dict())

    assert report.format == detect_format(source) == format_name
    assert report.missing == []
    assert set(report.used).isdisjoint(report.unused)
    assert set(report.used) | set(report.unused) == set(source)
    assert set(report.unused) == set(manifest(name).aliases)
    assert all(reason.startswith("alias of ") for reason in report.unused.values())
    filled = [name for names in report.used.values() for name in names]
    assert sorted(filled) == sorted(converted)
    model.load_state_dict(converted, strict=True)


@pytest.mark.parametrize(("name", "leaf", "format_name"), PUBLISHED[:4])
def test_original_heads_load_with_all_91_rows(name, leaf, format_name, published, config):
    source = published(name)
    cfg = config(leaf, "MODEL.DETR.NUM_CLASSES", 91)

    converted, report = convert_state_dict(source, cfg)

    assert report.missing == []
    assert report.notes == []
    torch.testing.assert_close(
        converted["heads.class_embed.0.weight"], source["class_embed.0.weight"], rtol=0, atol=0
    )


def test_model_keys_are_learned_without_disturbing_the_random_state(published, config):
    state = torch.get_rng_state()

    _, report = convert_state_dict(
        published("deformable_detr_base"), config("deformable_detr_r50_50ep")
    )

    assert report.missing == []
    assert torch.equal(torch.get_rng_state(), state)


def test_own_weights_keep_their_names(config):
    own = {
        "neck.level_embed": torch.ones(4, 8),
        "neck.input_proj.0.0.weight": torch.ones(8, 3, 1, 1),
    }

    converted, report = convert_state_dict(own, config(), expected=own)

    assert report.format == "lite_focus_detr"
    assert converted.keys() == own.keys()
    assert report.used == {key: (key,) for key in own}


def test_tensor_without_place_in_the_model_is_reported_with_its_name(config):
    own = {
        "neck.level_embed": torch.ones(4, 8),
        "neck.input_proj.0.0.weight": torch.ones(8, 3, 1, 1),
        "decoder.norm.weight": torch.ones(8),
    }

    converted, report = convert_state_dict(
        own, config(), expected=["neck.level_embed", "neck.input_proj.0.0.weight", "other"]
    )

    assert "decoder.norm.weight" not in converted
    assert "decoder.norm.weight" in report.unused["decoder.norm.weight"]
    assert report.missing == ["other"]


def test_settings_that_the_weights_were_not_trained_with_are_named_with_the_remedy(
    published, config
):
    cfg = config("deformable_detr_r50_50ep")

    _, report = convert_state_dict(published("detrex_deformable_detr_r50"), cfg, expected=[])

    (difference,) = report.differences
    assert "set MODEL.DETR.INVERSE_SIGMOID_EPS 0.001" in difference


def test_unknown_weights_are_refused_with_examples_and_the_known_formats():
    faster_rcnn = [
        "backbone.bottom_up.stem.conv1.weight",
        "proposal_generator.rpn_head.conv.weight",
    ]

    with pytest.raises(ValueError, match=r"proposal_generator.*detrex.*MODEL\.WEIGHTS"):
        detect_format(faster_rcnn)


def test_weights_of_this_project_before_its_names_changed_are_refused_with_the_remedy():
    before = ["tokens.level_embed", "tokens.input_proj.0.0.weight", "heads.class_embed.0.bias"]

    with pytest.raises(ValueError, match=r"lite-focus-detr before 0\.2.*train again or convert"):
        detect_format(before)


@pytest.mark.parametrize("container", ["model", "ema_model", "state_dict"])
def test_weights_are_found_in_their_container_and_lose_the_distributed_prefix(container):
    weights = unwrap({container: {"module.a": torch.ones(2)}, "epoch": 3})

    assert list(weights) == ["a"]


def test_only_the_prefix_of_distributed_training_is_removed():
    weights = {"module.a.module.b": torch.zeros(1), "module.module.c": torch.zeros(1)}
    assert list(unwrap({"model": weights})) == ["a.module.b", "module.c"]


def test_trained_weights_come_before_averaged_ones():
    weights = unwrap({"ema_model": {"a": torch.zeros(1)}, "model": {"a": torch.ones(1)}})

    assert weights["a"].item() == 1


def test_bare_state_dict_and_numpy_arrays_are_weights():
    weights = unwrap({"a": np.ones((2, 3), dtype=np.float32), "b": torch.ones(1)})

    assert weights["a"].shape == (2, 3)
    assert weights["a"].dtype == torch.float32


def test_entries_that_are_no_tensors_are_left_out_and_logged(caplog):
    weights = unwrap({"model": {"a": torch.ones(1), "weight_order": "hwc"}})

    assert list(weights) == ["a"]
    assert "weight_order" in caplog.text


def test_file_without_weights_is_refused_with_what_it_holds():
    with pytest.raises(ValueError, match="optimizer, epoch"):
        unwrap({"optimizer": {}, "epoch": 1})
