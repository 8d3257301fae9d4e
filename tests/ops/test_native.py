"""Which path runs, and the account of it."""

import logging

import pytest
import torch

from lite_focus_detr import ops
from lite_focus_detr.ops import library_file, native


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


def write_stamped(path, interface, architectures=()):
    path.write_bytes(library_file.stamp_text(interface, architectures).encode() + b"\0")


def test_a_library_of_other_sources_is_not_loaded(monkeypatch, tmp_path):
    package = tmp_path / "lite_focus_detr"
    kernels = package / "kernels"
    for name in library_file.INTERFACE:
        (kernels / name).parent.mkdir(parents=True, exist_ok=True)
        (kernels / name).write_text(name)
    (package / "ops").mkdir()
    monkeypatch.setattr(native, "__file__", str(package / "ops" / "native.py"))
    library = package / "ops" / "_cpu.so"
    write_stamped(library, "0123456789abcdef")
    assert "built from other sources, build it again" in native.load_libraries()["cpu"]
    library.write_bytes(b"a library of an old release")
    assert "built from other sources, build it again" in native.load_libraries()["cpu"]
    # With the right stamp it is left to the loader.
    write_stamped(library, library_file.interface_digest(kernels))
    assert "other sources" not in native.load_libraries()["cpu"]


@pytest.mark.parametrize(
    ("capability", "reason"),
    [((8, 9), None), ((7, 5), "built for 8.0, 9.0+PTX, but GPU 0 has compute capability 7.5")],
)
def test_a_gpu_that_is_not_covered_takes_the_reference(monkeypatch, tmp_path, capability, reason):
    write_stamped(tmp_path / "_cuda.so", "0123456789abcdef", ("8.0", "9.0+PTX"))
    monkeypatch.setattr(native, "__file__", str(tmp_path / "native.py"))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index: capability)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setitem(native.REASONS, "cuda", None)
    native.uncovered_reason.cache_clear()
    found = native.unavailable_reason("cuda:0")
    native.uncovered_reason.cache_clear()
    if reason is None:
        assert found is None
    else:
        assert reason in found
        assert "TORCH_CUDA_ARCH_LIST=7.5" in found


def test_the_reference_on_cuda_is_announced_once(monkeypatch, caplog):
    class OnCuda:
        dtype = torch.float32
        device = torch.device("cuda:0")
        is_cuda = True

    monkeypatch.setitem(native.REASONS, "cuda", "_cuda.so has not been built")
    native.warn_once.cache_clear()
    with caplog.at_level(logging.WARNING):
        assert not native.supports(OnCuda())
        assert not native.supports(OnCuda())
    assert len(caplog.records) == 1
    assert "_cuda.so has not been built" in caplog.text
    assert "FORCE_CUDA=1" in caplog.text
    caplog.clear()
    native.warn_once.cache_clear()
    monkeypatch.setenv("LITE_FOCUS_DETR_OPS", "reference")
    assert not native.supports(OnCuda())
    assert caplog.records == []
