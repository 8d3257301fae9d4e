"""Small detectors with every encoder that has a quick configuration."""

from functools import cache
from pathlib import Path

import pytest
import torch
from detectron2.modeling import build_model

from lite_focus_detr import model_zoo
from lite_focus_detr.export.conversion import convert_program
from lite_focus_detr.export.detector import ImageInput, TensorDetector
from lite_focus_detr.export.program import export_program

CONFIGS = Path(__file__).resolve().parents[2] / "configs/quick_schedules"
#: One for each encoder.
QUICK_CONFIGS = sorted(path.stem for path in CONFIGS.glob("*dino_shapes.yaml"))


def make_config(name, *options):
    """A quick configuration with two decoder layers."""
    options = ["MODEL.DEVICE", "cpu", "MODEL.DETR.DECODER.NUM_LAYERS", "2", *options]
    cfg = model_zoo.get_config(name, options)
    cfg.MODEL.WEIGHTS = ""
    return cfg


def make_model(cfg):
    """A detector whose attentions do not look at their initial places, and which finds objects."""
    torch.manual_seed(0)
    model = build_model(cfg).eval()
    for name, parameter in model.named_parameters():
        if parameter.dim() > 1 and not name.startswith("backbone"):
            parameter.data += torch.randn_like(parameter) * 0.02
        if "class_embed" in name and name.endswith("bias"):
            parameter.data.zero_()
    return model


@cache
def _trace(name):
    detector = TensorDetector(make_model(make_config(name)), ImageInput())
    program = export_program(detector.model)
    return detector, program, convert_program(program)


@pytest.fixture
def trace():
    """The detector of a quick configuration, its program, and a copy of its ONNX model."""

    def get(name):
        detector, program, traced = _trace(name)
        return detector, program, traced.clone()

    return get
