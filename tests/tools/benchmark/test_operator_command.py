"""The command that measures the operators."""

import subprocess
import sys

import pytest
import torch

from lite_focus_detr.tools.benchmark import cuda_operators, operators
from lite_focus_detr.tools.benchmark.__main__ import main


@pytest.fixture
def small(monkeypatch):
    """Levels of a small image, and no other process."""
    monkeypatch.setattr(operators, "SHAPES", ((8, 12), (4, 6), (2, 3), (1, 2)))
    monkeypatch.setattr(operators, "QUERIES", {"encoder": 128, "decoder": 20})
    monkeypatch.setattr(
        "lite_focus_detr.tools.benchmark.measure.peak_memories",
        lambda make, _: dict.fromkeys(make(), 2_000_000),
    )


@pytest.mark.usefixtures("small")
def test_the_table_names_times_ratios_and_memory(capsys):
    main(["op", "--rounds", "1", "--size", "decoder", "--device", "cpu"])
    _, setting, header, _, first, *rest = capsys.readouterr().out.splitlines()
    assert setting.startswith("cpu, float32, ")
    assert header.split("  ")[-1] == "ratio"
    assert "peak MB" in header
    assert first.split()[:3] == ["decoder", "multi-scale", "native"]
    assert first.split()[4:] == ["1.0", "1.0", "2.0", "1.0"]
    assert any("key-aware, key = value, gradients" in row and "grid_sample" in row for row in rest)


def test_a_gpu_that_is_not_there_is_an_error_of_one_line(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit, match="--device cuda: PyTorch sees no GPU"):
        main(["op", "--device", "cuda"])


@pytest.mark.usefixtures("small")
def test_a_gpu_is_measured_with_graphs(monkeypatch):
    calls = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "a GPU")
    monkeypatch.setattr("lite_focus_detr.ops.backend", lambda device: device)
    monkeypatch.setattr(cuda_operators, "run", lambda *arguments: calls.append(arguments))
    main(["op", "--device", "cuda", "--dtype", "bfloat16", "--rounds", "3"])
    assert calls == [(["encoder", "decoder"], torch.device("cuda"), "bfloat16", 3)]


def test_the_operators_are_measured_without_detectron2():
    code = "import sys; sys.modules['detectron2'] = None\n"
    code += "from lite_focus_detr.tools.benchmark.__main__ import main; main(sys.argv[1:])"
    for option in ("--help", "--device=tpu"):
        command = [sys.executable, "-c", code, "op", option]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        assert "--device {cpu,cuda}" in result.stdout + result.stderr
        assert "detectron2" not in result.stderr
