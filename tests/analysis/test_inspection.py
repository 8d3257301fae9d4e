"""What a detector does with one image."""

import pytest
from detectron2.modeling import build_model

from lite_focus_detr.analysis.inspection import detector_name


@pytest.mark.parametrize(
    ("architecture", "attention", "name"),
    [
        ("DeformableDETR", "deformable", "DeformableDETR"),
        ("LiteDETR", "key_aware", "LiteDETR, key-aware"),
        ("FocusDETR", "deformable", "FocusDETR, keep ratio 0.4"),
    ],
)
def test_a_detector_is_named_by_what_its_encoder_does(tiny_config, architecture, attention, name):
    cfg = tiny_config()
    cfg.MODEL.META_ARCHITECTURE = architecture
    cfg.MODEL.DETR.ENCODER.ATTENTION = attention
    cfg.MODEL.FOCUS.KEEP_RATIOS = [0.5, 0.3]
    model = build_model(cfg)
    assert detector_name(model) == name


def test_the_name_has_the_budget_at_run_time(tiny_config):
    cfg = tiny_config()
    cfg.MODEL.META_ARCHITECTURE = "FocusDETR"
    cfg.MODEL.FOCUS.KEEP_RATIOS = [0.5, 0.3]
    model = build_model(cfg)
    model.set_budget(keep_ratio=0.25)
    assert detector_name(model) == "FocusDETR, keep ratio 0.25"
