"""Which path runs, and the account of it."""

import logging

import pytest
import torch

from lite_focus_detr import ops
from lite_focus_detr.ops import native


def test_the_environment_forces_the_reference(monkeypatch):
    monkeypatch.setenv("LITE_FOCUS_DETR_OPS", "reference")
    assert ops.backend("cpu") == "reference"
    assert ops.backend("cuda:1") == "reference"
    assert ops.unavailable_reason("cpu") == "LITE_FOCUS_DETR_OPS=reference"


def test_a_device_without_kernels_takes_the_reference():
    assert ops.backend("meta") == "reference"
    assert "meta" in ops.unavailable_reason("meta")
    value = torch.empty(1, 4, 2, 3, device="meta")
    locations = torch.empty(1, 5, 2, 1, 2, 2, device="meta")
    output = ops.multi_scale_deformable_attention(value, [(2, 2)], locations, locations[..., 0])
    assert output.shape == (1, 5, 6)


def test_a_library_that_does_not_load_is_reported_once_in_the_words_of_the_loader(
    monkeypatch, tmp_path, caplog
):
    (tmp_path / "_cpu.so").write_text("not a library")
    monkeypatch.setattr(native, "__file__", str(tmp_path / "native.py"))
    with caplog.at_level(logging.WARNING):
        reasons = native.load_libraries()
    assert "_cpu.so does not load" in reasons["cpu"]
    assert "invalid ELF header" in reasons["cpu"] or "file too short" in reasons["cpu"]
    assert len(caplog.records) == 1
    assert reasons["cpu"] in caplog.text


def test_a_library_that_is_missing_is_reported(monkeypatch, tmp_path):
    monkeypatch.setattr(native, "__file__", str(tmp_path / "native.py"))
    assert native.load_libraries()["cpu"] == "_cpu.so has not been built"


@pytest.mark.usefixtures("native")
def test_forcing_the_reference_gives_the_same_values(make_inputs, monkeypatch):
    inputs = make_inputs()
    arguments = (inputs.value, inputs.shapes, inputs.locations, inputs.weights)
    expected = ops.multi_scale_deformable_attention(*arguments)
    monkeypatch.setenv("LITE_FOCUS_DETR_OPS", "reference")
    torch.testing.assert_close(ops.multi_scale_deformable_attention(*arguments), expected)


@pytest.mark.usefixtures("native")
@pytest.mark.parametrize(
    ("dtype", "supported"),
    [
        (torch.float32, True),
        (torch.float64, True),
        (torch.bfloat16, True),
        (torch.float16, True),
        (torch.float8_e4m3fn, False),
    ],
)
def test_kernels_take_the_floating_point_types_of_training(dtype, supported):
    assert native.supports(torch.empty(0, dtype=dtype)) is supported
