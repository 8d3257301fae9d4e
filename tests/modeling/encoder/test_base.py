"""What an encoder has without writing it."""

import pytest
from detectron2.config import get_cfg
from detectron2.modeling import build_model

from lite_focus_detr.modeling.encoder import ENCODER_REGISTRY, Encoder


def test_by_default_an_encoder_has_no_keys_no_rules_and_no_losses():
    cfg = get_cfg()
    Encoder.add_config(cfg)
    Encoder.validate_config(cfg)
    assert cfg == get_cfg()
    assert Encoder().losses(None, None, None, ()) == {}
    assert Encoder.choices == Encoder.minimum_values == {}
    assert not Encoder.needs_proposal_head
    assert not Encoder.needs_sampling


def test_how_to_encode_is_for_the_subclass_to_say():
    with pytest.raises(NotImplementedError):
        Encoder()(None, None)


def test_encoders_are_found_by_name():
    names = {name for name, _ in ENCODER_REGISTRY}
    assert names >= {"DeformableEncoder", "LiteEncoder", "FocusEncoder", "SparseEncoder"}


@pytest.mark.parametrize("architecture", ["FocusDETR", "SparseDETR", "LiteFocusDETR"])
def test_a_budget_can_be_chosen_and_given_back(tiny_config, make_batch, architecture):
    cfg = tiny_config("dino")
    cfg.MODEL.META_ARCHITECTURE = architecture
    cfg.MODEL.FOCUS.KEEP_RATIOS = [0.5, 0.3]
    cfg.MODEL.LITE_FOCUS.KEEP_RATIOS = [0.3]
    model = build_model(cfg).eval()
    configured = list(model.encoder.keep_ratios)
    images = model.preprocess_image(make_batch((1,), [(64, 96)]))
    counts = {}
    for ratio in (1.0, 0.1, 0.6, None):
        model.set_budget(ratio)
        kept = model.forward_outputs(images).encoder.trace.kept
        counts[ratio] = [x.indices.shape[1] for x in kept]
    assert model.encoder.keep_ratios == configured
    total = 96 + 24 + 6 + 2
    assert counts[1.0][-1] == total
    for layer in range(2):
        assert counts[0.1][layer] <= counts[None][layer] <= counts[0.6][layer]
    assert counts[0.1][-1] < counts[None][-1] < counts[0.6][-1] < total


def test_a_budget_of_none_of_the_tokens_is_refused(tiny_config):
    cfg = tiny_config("dino")
    cfg.MODEL.META_ARCHITECTURE = "SparseDETR"
    model = build_model(cfg)
    model.set_budget(0.2)
    with pytest.raises(ValueError, match=r"keep ratio is 0; it must lie in \(0, 1\]"):
        model.set_budget(0)
    assert set(model.encoder.keep_ratios) == {0.2}


def test_an_encoder_that_updates_all_tokens_has_no_budget(tiny_config):
    with pytest.raises(ValueError, match="DeformableEncoder updates all tokens"):
        build_model(tiny_config("dino")).set_budget(0.5)
