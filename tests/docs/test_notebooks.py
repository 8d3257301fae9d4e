"""The notebooks of examples/ run from the first cell to the last, and hold no results."""

import os
from pathlib import Path

import nbformat
import pytest
import torch
from detectron2.modeling import build_model
from nbclient import NotebookClient

from lite_focus_detr import model_zoo

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = sorted((ROOT / "examples").glob("*.ipynb"))


@pytest.fixture
def environment(monkeypatch, tmp_path):
    """What the kernel sees; everything is written below ``tmp_path``."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT / "projects"))
    monkeypatch.setenv("MPLBACKEND", "module://matplotlib_inline.backend_inline")
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    monkeypatch.setenv("OMP_NUM_THREADS", os.environ.get("OMP_NUM_THREADS", "1"))
    return monkeypatch


def execute(name, folder):
    """Run a notebook in ``folder``; its code cells with their outputs."""
    notebook = nbformat.read(ROOT / "examples" / name, as_version=4)
    client = NotebookClient(notebook, timeout=120, resources={"metadata": {"path": str(folder)}})
    client.execute()
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def printed(cell):
    return "".join(output.text for output in cell.outputs if output.output_type == "stream")


def pictures(cells):
    outputs = [output for cell in cells for output in cell.outputs]
    return [output for output in outputs if "image/png" in output.get("data", {})]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_notebooks_are_committed_without_results(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            assert not cell.outputs
            assert cell.execution_count is None


def test_predict_detects_and_draws(environment, tmp_path):
    cfg = model_zoo.get_config("quick_schedules/dino_shapes")
    cfg.MODEL.DEVICE = "cpu"
    torch.manual_seed(0)
    torch.save({"model": build_model(cfg).state_dict()}, tmp_path / "model.pth")
    environment.setenv("WEIGHTS", str(tmp_path / "model.pth"))
    cells = execute("predict.ipynb", tmp_path)
    assert len(pictures(cells)) == 1
    found = "".join(map(printed, cells))
    assert any(name in found for name in ("rectangle", "ellipse", "triangle"))
    # An image of 128 x 128: strides 8, 16, 32 and 64, 30 queries, 3 classes.
    assert "((16, 16), (8, 8), (4, 4), (2, 2))" in found
    assert "(1, 340, 64) (B, S, C)" in found
    assert "(1, 30, 3) (B, Q, K)" in found


def test_training_on_own_data_writes_a_model_and_evaluates_it(environment, tmp_path):
    environment.setenv("ITERATIONS", "3")
    environment.setenv("OUTPUT", str(tmp_path / "output"))
    cells = execute("train_on_your_data.ipynb", tmp_path)
    assert (tmp_path / "output" / "model_final.pth").is_file()
    assert len(pictures(cells)) == 2
    assert "'AP':" in "".join(map(printed, cells))
