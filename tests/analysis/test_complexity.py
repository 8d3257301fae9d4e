"""Costs equal those measured on the published models: fvcore, one multiply-add counts 1."""

from pathlib import Path

import pytest
from detectron2.config import get_cfg
from detectron2.modeling import build_model

from lite_focus_detr import add_lite_focus_detr_config
from lite_focus_detr.analysis.complexity import measure_complexity

CONFIGS = Path(__file__).resolve().parents[2] / "configs/deformable_detr"
# GFLOPs at 850x1040 and at 800x1333, parameters in millions: all, or the trainable ones.
TABLE = [
    ("deformable_detr_r50_50ep", 172.93, 206.6, 39.85, True),
    ("deformable_detr_refine_r50_50ep", 173.2, None, 40.63, True),
    ("deformable_detr_two_stage_r50_50ep", 177.37, None, 40.96, True),
    ("dn_deformable_detr_r50_50ep", 233.4, None, 47.41, False),
    ("dino_r50_12ep", 246.6, 292.7, 47.65, False),
    ("dino_r50_36ep", 246.2, None, 46.67, True),
]


@pytest.mark.parametrize(("leaf", "small", "large", "parameters", "trainable"), TABLE)
def test_flops_and_parameters_are_those_of_the_published_models(
    leaf, small, large, parameters, trainable
):
    cfg = get_cfg()
    add_lite_focus_detr_config(cfg)
    cfg.merge_from_file(str(CONFIGS / f"{leaf}.yaml"))
    cfg.MODEL.DEVICE = "cpu"
    model = build_model(cfg)
    # 91 rows in the original files, 80 here: less than 0.1 %.
    complexity = measure_complexity(model, 850, 1040)
    counted = complexity.trainable if trainable else complexity.parameters["total"]
    assert counted / 1e6 == pytest.approx(parameters, rel=1e-3)
    assert complexity.flops["total"] / 1e9 == pytest.approx(small, rel=0.01)
    if large is not None:
        complexity = measure_complexity(model, 800, 1333)
        assert complexity.flops["total"] / 1e9 == pytest.approx(large, rel=0.01)
