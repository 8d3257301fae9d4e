"""The shipped detector of blood cells keeps its AP in every form that it can be given."""

import re
from pathlib import Path

import pytest

from lite_focus_detr import model_zoo
from lite_focus_detr.config.trained_weights import FOLDER
from lite_focus_detr.export import DIALECTS, ImageInput, export_program
from lite_focus_detr.export.conversion import convert_program
from lite_focus_detr.export.detector import TensorDetector
from lite_focus_detr.export.onnx_file import write_checked
from lite_focus_detr.optimization.detector import has_bfloat16
from lite_focus_detr.tools import evaluate

NAME = "lite_focus_dino_cells"
SAMPLE = Path(__file__).resolve().parents[2] / "examples/blood_cells"
(CARD,) = re.findall(r"^\| AP on the sample \| (.+) \|$", (FOLDER / f"{NAME}.md").read_text(), re.M)

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


@pytest.fixture(scope="module")
def traced():
    model = model_zoo.get(NAME, trained=True, device="cpu").eval()
    return TensorDetector(model, ImageInput()), convert_program(export_program(model))


@pytest.mark.parametrize("dialect", DIALECTS)
def test_exported_in_every_dialect(average_precision, traced, tmp_path, dialect):
    detector, program = traced
    write_checked(program.clone(), detector, tmp_path / "model.onnx", dialect)
    found = average_precision("--onnx", str(tmp_path / "model.onnx"))
    assert found == pytest.approx(float(CARD), abs=0.1)


@pytest.mark.parametrize(
    ("precision", "change"),
    [
        ("float32", 0.01),
        pytest.param("bfloat16", 0.5, marks=needs_bfloat16),
        ("int8", 0.5),
    ],
)
def test_optimised_in_every_precision(average_precision, precision, change):
    # On all validation images bfloat16 and int8 change it by less than 0.2: docs/export.md.
    assert average_precision("--optimize", precision) == pytest.approx(float(CARD), abs=change)
