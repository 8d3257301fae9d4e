"""What a run begins with."""

import pytest
import torch
from detectron2.modeling import build_model

from lite_focus_detr.engine import summary
from lite_focus_detr.engine.summary import show_device, show_model


@pytest.fixture
def lines(monkeypatch):
    """What is shown."""
    lines = []
    monkeypatch.setattr(summary.screen, "info", lambda *x: lines.append(x[0] % x[1:]))
    return lines


def test_the_device_and_the_operators(make_cfg, lines, monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    show_device(make_cfg(), no_gpu=True)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    monkeypatch.setattr(summary.ops, "backend", lambda device: "reference")
    show_device(make_cfg(), no_gpu=False)
    assert lines[0] == f"Device: CPU, as there is no GPU, 1 thread; PyTorch {torch.__version__}"
    assert lines[2] == f"Device: CPU, 4 threads; PyTorch {torch.__version__}"
    assert lines[3].startswith("Operators: of PyTorch, slow")


def test_the_model_has_classes_parameters_and_a_cost(make_cfg, lines):
    cfg = make_cfg("INPUT.MIN_SIZE_TEST", 48)
    model = build_model(cfg)
    count = sum(parameter.numel() for parameter in model.parameters())
    state = torch.random.get_rng_state()
    show_model(cfg, model, class_names=["cell", "red cell", "x"], weights="random")
    assert lines[0] == "Model: DeformableDETR, 3 classes cell 'red cell' x"
    assert lines[1].startswith(f"Cost: {count / 1e6:.2g} M parameters, ")
    assert lines[1].endswith(" GFLOPs for an image of 48x64")
    assert lines[2] == "Weights: random"
    # Training goes on as if nothing had been measured.
    assert torch.equal(torch.random.get_rng_state(), state)
    assert model.training


def test_a_large_model_is_not_measured(make_cfg, lines, monkeypatch):
    monkeypatch.setattr(summary, "MAX_COUNTED", 10)
    show_model(make_cfg(), build_model(make_cfg()), class_names=None, weights="a.pth")
    assert lines[0] == "Model: DeformableDETR, 3 classes"
    assert lines[1].endswith("M parameters")
