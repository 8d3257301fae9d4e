"""The notebooks of examples/ run from the first cell to the last, and hold no results."""

import os
import re
from pathlib import Path

import nbformat
import pytest
import torch
from detectron2.structures import Boxes, pairwise_iou
from nbclient import NotebookClient

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
    environment.setenv("IMAGE", str(ROOT / "examples/blood_cells/val/BloodImage_00000.jpg"))
    cells = execute("predict.ipynb", tmp_path)
    assert len(pictures(cells)) == 1
    found = "".join(map(printed, cells))
    # The image has 19 red cells and a white one in the middle of it, at (260, 177, 491, 376).
    assert len(re.findall(r"^RBC ", found, re.MULTILINE)) >= 10
    boxes = re.findall(r"^WBC .*\[(.*)\]$", found, re.MULTILINE)
    white = torch.tensor([[float(number) for number in box.split(",")] for box in boxes])
    truth = Boxes(torch.tensor([[260.0, 177, 491, 376]]))
    assert pairwise_iou(Boxes(white), truth).max() > 0.8
    # An image of 480 x 640, resized to 240 x 320: strides 8 to 64, 100 queries, 3 classes.
    assert "((30, 40), (15, 20), (8, 10), (4, 5))" in found
    assert "(1, 1600, 64) (B, S, C)" in found
    assert "(1, 100, 3) (B, Q, K)" in found


def test_training_on_own_data_writes_a_model_and_evaluates_it(environment, tmp_path):
    environment.setenv("ITERATIONS", "3")
    environment.setenv("OUTPUT", str(tmp_path / "output"))
    cells = execute("train_on_your_data.ipynb", tmp_path)
    assert (tmp_path / "output" / "model_final.pth").is_file()
    assert len(pictures(cells)) == 2
    assert "'AP':" in "".join(map(printed, cells))
