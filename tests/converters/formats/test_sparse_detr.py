import pytest
import torch

from lite_focus_detr.converters import convert_state_dict, detect_format
from lite_focus_detr.converters.formats.sparse_detr import SPARSE_DETR
from lite_focus_detr.modeling.postprocess import COCO_IDS

LEAF = "sparse_deformable_detr_two_stage_r50_50ep"
CPU = ("MODEL.DEVICE", "cpu")


def test_every_tensor_of_the_published_file_is_used_once(published, config):
    weights = published("sparse_detr_r50")
    assert detect_format(weights) == "sparse_detr"
    cfg = config(LEAF, *CPU, "MODEL.DETR.NUM_CLASSES", 91, "MODEL.DETR.COCO_ID_ROWS", True)
    converted, report = convert_state_dict(weights, cfg)
    assert (report.missing, report.unplaced, report.differences) == ([], [], [])
    assert len(report.unused) == 136
    assert all(reason.startswith("alias of") for reason in report.unused.values())
    name = "transformer.encoder.bbox_embed.3.layers.1.bias"
    assert torch.equal(converted["encoder.aux_heads.bbox_embed.3.layers.1.bias"], weights[name])
    head = converted["proposal_head.class_embed.weight"]
    assert torch.equal(head, weights["class_embed.6.weight"])


def test_classes_of_all_heads_are_taken_by_category_id(published, config):
    weights = published("sparse_detr_r50")
    converted, report = convert_state_dict(weights, config(LEAF, *CPU))
    assert report.missing == []
    for name, key in (
        ("heads.class_embed.0.bias", "class_embed.0.bias"),
        ("proposal_head.class_embed.bias", "class_embed.6.bias"),
        ("encoder.aux_heads.class_embed.4.bias", "class_embed.11.bias"),
    ):
        assert torch.equal(converted[name], weights[key][list(COCO_IDS)])


def test_the_keep_ratio_is_taken_from_the_options_of_the_file(published, config):
    weights, cfg = published("sparse_detr_r50"), config(LEAF)
    _, report = convert_state_dict(weights, cfg, expected=[], options={"rho": 0.1})
    assert any("set MODEL.SPARSE.KEEP_RATIO 0.1" in text for text in report.differences)
    assert not any("Cannot be known" in note for note in report.notes)
    _, report = convert_state_dict(weights, cfg, expected=[])
    assert report.differences == []
    assert any("Cannot be known" in n and "MODEL.SPARSE.KEEP_RATIO" in n for n in report.notes)


def test_names_of_one_tensor_with_different_values_are_refused(published, config):
    weights = published("sparse_detr_r50")
    weights["class_embed.8.bias"] = weights["class_embed.8.bias"] + 1
    with pytest.raises(ValueError, match=r"class_embed\.8\.bias"):
        convert_state_dict(weights, config(LEAF), expected=[])


def test_settings_are_those_of_the_original_release(manifest):
    assert SPARSE_DETR.settings(manifest("sparse_detr_r50").tensors, {"rho": 0.2}) == {
        "MODEL.META_ARCHITECTURE": "SparseDETR",
        "MODEL.DETR.POSITION.TEMPERATURE": 10000.0,
        "MODEL.DETR.POSITION.OFFSET": -0.5,
        "MODEL.DETR.INVERSE_SIGMOID_EPS": 1e-5,
        "MODEL.DETR.QUERY_SELECTION": "token_content",
        "MODEL.DETR.CLASS_AGNOSTIC_PROPOSALS": False,
        "MODEL.DETR.BOX_REFINE": True,
        "MODEL.SPARSE.KEEP_RATIO": 0.2,
    }
