"""The shipped detector of blood cells keeps its AP in the forms that it can be given."""

import re
from pathlib import Path

import pytest

from lite_focus_detr import model_zoo
from lite_focus_detr.config.trained_weights import FOLDER
from lite_focus_detr.export import export_onnx
from lite_focus_detr.optimization.detector import has_bfloat16, has_int8
from lite_focus_detr.tools import evaluate

NAME = "lite_focus_dino_cells"
SAMPLE = Path(__file__).resolve().parents[2] / "examples/blood_cells"
(CARD,) = re.findall(r"^\| AP on the sample \| (.+) \|$", (FOLDER / f"{NAME}.md").read_text(), re.M)

needs_int8 = pytest.mark.skipif(not has_int8(), reason="PyTorch has no engine for int8")
needs_bfloat16 = pytest.mark.skipif(not has_bfloat16(), reason="the processor has no bfloat16")


@pytest.fixture
def average_precision(tmp_path, monkeypatch):
    """AP of ``eval`` with further options."""
    found = []
    monkeypatch.setattr(evaluate, "run", lambda main, args: found.append(main(args)["bbox"]["AP"]))

    def run(*options):
        command = ["--weights", NAME, "--data", str(SAMPLE), "--output", str(tmp_path / "output")]
        evaluate.main([*command, *options, "--opts", "DATALOADER.NUM_WORKERS", "0"])
        return found.pop()

    return run


def test_exported(average_precision, tmp_path):
    # What is written agrees with PyTorch in every dialect, see test_onnx_file.py: one will do.
    model = model_zoo.get(NAME, trained=True, device="cpu").eval()
    export_onnx(model, tmp_path / "model.onnx")
    found = average_precision("--onnx", str(tmp_path / "model.onnx"))
    assert found == pytest.approx(float(CARD), abs=0.1)


@pytest.mark.parametrize(
    "precision",
    [pytest.param("bfloat16", marks=needs_bfloat16), pytest.param("int8", marks=needs_int8)],
)
def test_optimised_in_low_precision(average_precision, precision):
    # On all validation images it changes by less than 0.2: docs/export.md. What is optimised in
    # single precision predicts the same to 1e-5, see test_detector.py.
    assert average_precision("--optimize", precision) == pytest.approx(float(CARD), abs=0.5)
