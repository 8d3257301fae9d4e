"""Names that other people's code may import."""

from importlib import import_module

import pytest
from detectron2.modeling import META_ARCH_REGISTRY

from lite_focus_detr.modeling import DetectorOutputs

OPERATORS = (
    "multi_scale_deformable_attention",
    "key_aware_deformable_attention",
    "fused_deformable_attention",
    "fused_key_aware_deformable_attention",
)
CONTRACT = {
    "lite_focus_detr": ("add_lite_focus_detr_config",),
    "lite_focus_detr.model_zoo": ("get_config_file", "get_config", "get"),
    "lite_focus_detr.ops": (*OPERATORS, "backend", "reference"),
    "lite_focus_detr.ops.reference": OPERATORS,
    "lite_focus_detr.converters": ("convert_state_dict",),
    "lite_focus_detr.engine": ("DetrCheckpointer",),
    "lite_focus_detr.modeling": ("DetectionTransformer",),
    "lite_focus_detr.modeling.encoder": (
        "ENCODER_REGISTRY",
        "Encoder",
        "EncoderLayer",
        "EncoderOutput",
        "TokenQueries",
        "TokenSelection",
    ),
}


@pytest.mark.parametrize("module", CONTRACT)
def test_public_names_can_be_imported(module):
    missing = [name for name in CONTRACT[module] if not hasattr(import_module(module), name)]
    assert missing == []


@pytest.mark.parametrize("name", ["DeformableDETR", "LiteDETR", "FocusDETR", "SparseDETR"])
def test_detectors_are_registered_by_name(name):
    assert META_ARCH_REGISTRY.get(name).__name__ == name


def test_what_a_detector_predicts_has_its_fields():
    assert set(DetectorOutputs._fields) >= {
        "pred_logits",
        "pred_boxes",
        "aux_outputs",
        "proposal_outputs",
        "proposal_indices",
        "memory",
        "padding_mask",
        "tokens",
        "encoder",
        "denoising",
        "denoising_outputs",
        "sampling",
    }
