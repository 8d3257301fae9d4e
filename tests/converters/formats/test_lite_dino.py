import argparse

import pytest

from lite_focus_detr.converters import convert_state_dict, detect_format, training_options

LEAVES = {
    "lite_dino_h2l2_2p1x3": "lite_dino_h2l2_2p1x3_r50_36ep",
    "lite_dino_h3l1_6p1x1": "lite_dino_h3l1_6p1x1_r50_36ep",
    "lite_dino_h3l1_2p1x3": "lite_dino_h3l1_2p1x3_r50_36ep",
    "lite_dino_h3l1_2p1x3_nokda": "lite_dino_h3l1_2p1x3_plain_r50_36ep",
}


@pytest.fixture
def notes(published, config):
    """Differences and notes of a conversion, joined."""

    def convert(name, leaf, *overrides, **options):
        _, report = convert_state_dict(
            published(name), config(leaf, *overrides), expected=[], options=options
        )
        return "\n".join(report.differences + report.notes)

    return convert


@pytest.mark.parametrize("name", LEAVES)
def test_structure_is_read_from_the_keys_and_fits_the_leaf(name, published, notes):
    assert detect_format(published(name)) == "lite_dino"
    assert "set MODEL" not in notes(name, LEAVES[name])


def test_dense_dino_is_not_taken_for_lite_dino(published):
    assert detect_format(published("dino_4scale_ideaofficial")) == "dino"


def test_keys_of_the_decoder_that_the_model_lacks_are_named_with_the_remedy(published, config):
    weights = published("lite_dino_h3l1_2p1x3")
    name = "transformer.decoder.layers.{}.cross_attn.{}_proj.{}"
    for layer in range(6):
        for kind in ("weight", "bias"):
            key = name.format(layer, "value", kind)
            weights[name.format(layer, "key", kind)] = weights[key].clone()
    cfg = config(LEAVES["lite_dino_h3l1_2p1x3"], "MODEL.DEVICE", "cpu")
    _, report = convert_state_dict(weights, cfg)
    assert len(report.unplaced) == 12
    (difference,) = report.differences
    assert "set MODEL.DETR.DECODER.PROJECTED_KEY True" in difference


def test_the_assumed_schedule_and_a_check_are_always_told(notes):
    text = notes("lite_dino_h3l1_6p1x1", LEAVES["lite_dino_h3l1_6p1x1"])
    assert "Schedule: H3L1-(6+1)x1." in text
    assert "--eval-only" in text


def test_what_no_tensor_tells_is_named_unless_the_file_holds_it(notes):
    name = "lite_dino_h2l2_2p1x3"
    unknown = "no tensor depends on it: MODEL.LITE.NUM_HIGH_LEVELS, MODEL.DETR.POSITION"
    assert unknown in notes(name, LEAVES[name])
    known = notes(name, LEAVES[name], enc_scale=2, num_expansion=3)
    assert "no tensor depends on it: MODEL.DETR.POSITION" in known


def test_high_levels_other_than_those_of_the_file_are_named_with_the_remedy(notes):
    text = notes("lite_dino_h2l2_2p1x3", LEAVES["lite_dino_h3l1_2p1x3"], enc_scale=2)
    assert "set MODEL.LITE.NUM_HIGH_LEVELS 2" in text


def test_configuration_of_another_schedule_is_named_with_the_remedy(notes):
    text = notes("lite_dino_h3l1_6p1x1", LEAVES["lite_dino_h3l1_2p1x3"])
    assert "set MODEL.LITE.NUM_BLOCKS 1" in text
    order = notes(
        "lite_dino_h3l1_6p1x1", LEAVES["lite_dino_h3l1_6p1x1"], "MODEL.LITE.LOW_UPDATE", "after"
    )
    assert "set MODEL.LITE.LOW_UPDATE joint" in order
    assert "set MODEL.META_ARCHITECTURE LiteDETR" in notes("lite_dino_h3l1_6p1x1", "dino_r50_36ep")


def test_plain_attention_of_the_file_is_named_with_the_remedy(notes):
    text = notes("lite_dino_h3l1_2p1x3_nokda", LEAVES["lite_dino_h3l1_2p1x3"])
    assert "set MODEL.DETR.ENCODER.ATTENTION deformable" in text
    assert "set MODEL.DETR.DECODER.ATTENTION deformable" in text


@pytest.mark.parametrize("plain", ["ENCODER", "DECODER"])
def test_attentions_of_encoder_and_decoder_are_told_apart(published, config, plain):
    sources = {"ENCODER": "lite_dino_h3l1_2p1x3", "DECODER": "lite_dino_h3l1_2p1x3"}
    sources[plain] = "lite_dino_h3l1_2p1x3_nokda"
    weights = {
        key: tensor
        for part, source in sources.items()
        for key, tensor in published(source).items()
        if ("transformer.decoder" in key) == (part == "DECODER")
    }
    cfg = config("lite_dino_h3l1_2p1x3_r50_36ep")
    _, report = convert_state_dict(weights, cfg, expected=[])
    (difference,) = [text for text in report.differences if "ATTENTION" in text]
    assert f"set MODEL.DETR.{plain}.ATTENTION deformable" in difference


@pytest.mark.parametrize("source", ["file", "configuration"])
def test_the_wrong_options_of_the_readme_are_recognised_and_explained(source, notes):
    name = "lite_dino_h2l2_2p1x3"
    if source == "file":
        text = notes(name, LEAVES[name], num_expansion=3, enc_scale=1)
    else:
        text = notes(name, LEAVES[name], "MODEL.LITE.NUM_HIGH_LEVELS", 1)
    assert "H1L3" in text
    assert "README" in text
    assert "MODEL.LITE.NUM_HIGH_LEVELS 2" in text


def test_projections_that_plain_attention_never_used_are_left_out_with_a_reason(published, config):
    name = "lite_dino_h3l1_2p1x3_nokda"
    _, report = convert_state_dict(published(name), config(LEAVES[name]))
    assert (report.missing, report.unplaced) == ([], [])
    unused = [key for key, reason in report.unused.items() if not reason.startswith("alias of ")]
    assert len(unused) == 24
    assert all(".query_proj." in key for key in unused)


def test_options_are_found_in_a_namespace_or_a_dictionary():
    options = {"enc_scale": 2}
    assert training_options({"args": argparse.Namespace(**options)}) == options
    assert training_options({"args": options}) == options
    assert training_options({"model": {}}) == {}


def test_a_released_file_starts_the_encoder_that_also_selects_tokens(published, config):
    cfg = config("lite_focus_dino_h2l2_2p1x3_keep30_dual_r50_36ep", "MODEL.DEVICE", "cpu")
    _, report = convert_state_dict(published("lite_dino_h2l2_2p1x3"), cfg)
    assert {name.split(".")[1] for name in report.missing} == {
        "scorer",
        "dual_attention",
    }
    assert report.unplaced == []
    assert "encoder.scorer.layer1.* (4)" in report.untrained()
    assert "encoder.dual_attention.*.norm (6)" in report.untrained()
