"""Costs of Focus-DETR and Sparse DETR equal those measured on the published models with fvcore."""

from pathlib import Path

import pytest
from detectron2.config import get_cfg
from detectron2.modeling import build_model

from lite_focus_detr import add_lite_focus_detr_config
from lite_focus_detr.analysis.complexity import measure_complexity

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
# GFLOPs at 850x1040. Sparse DETR without the auxiliary heads, which are needed in training only.
TABLE = [
    ("focus_detr/focus_dino_r50_36ep_keep10", 127.5),
    ("focus_detr/focus_dino_r50_36ep_keep20", 141.4),
    ("focus_detr/focus_dino_r50_36ep", 155.4),
    ("focus_detr/focus_dino_r50_36ep_keep40", 169.3),
    ("focus_detr/focus_dino_r50_36ep_keep50", 183.2),
    ("sparse_detr/sparse_deformable_detr_two_stage_r50_50ep", 125.5),
]
# Millions of parameters; the published Sparse DETR counts its heads with 91 classes.
PARAMETERS = [
    ("focus_detr/focus_dino_r50_36ep", 80, 49.34),
    ("focus_detr/focus_dino_r101_36ep", 80, 68.28),
    ("focus_detr/focus_dino_swin_tiny_36ep", 80, 49.88),
    ("sparse_detr/sparse_deformable_detr_two_stage_r50_50ep", 91, 41.94),
]


def build(leaf, *options):
    cfg = get_cfg()
    add_lite_focus_detr_config(cfg)
    cfg.merge_from_file(str(CONFIGS / f"{leaf}.yaml"))
    cfg.merge_from_list(["MODEL.DEVICE", "cpu", *options])
    return build_model(cfg)


@pytest.mark.parametrize(("leaf", "total"), TABLE)
def test_flops_are_those_of_the_published_models(leaf, total):
    complexity = measure_complexity(build(leaf), 850, 1040)
    assert complexity.flops["total"] / 1e9 == pytest.approx(total, rel=0.01)


@pytest.mark.parametrize(("leaf", "num_classes", "millions"), PARAMETERS)
def test_parameters_are_those_of_the_published_models(leaf, num_classes, millions):
    model = build(leaf, "MODEL.DETR.NUM_CLASSES", num_classes)
    count = sum(parameter.numel() for parameter in model.parameters())
    assert count / 1e6 == pytest.approx(millions, abs=0.005)
