"""What an encoder has without writing it."""

import pytest
from detectron2.config import get_cfg

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
