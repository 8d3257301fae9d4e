import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from detectron2.modeling import build_model

from lite_focus_detr.data import register_datasets
from lite_focus_detr.tools.study import __main__ as study
from lite_focus_detr.tools.study.suite import SPARSIFIED, Cell
from lite_focus_detr.tools.study.training import RESULT


@pytest.fixture
def command(tmp_path, monkeypatch):
    """Run the command with trainings that only leave a result; returns which of them ran."""
    monkeypatch.setattr(study, "setup_logger", lambda **_: None)
    suite = [Cell("shapes", "dino", "dense", seed) for seed in range(3)]
    monkeypatch.setattr(study, "cells", lambda names, seeds: iter(suite))
    monkeypatch.setattr(study, "measure_costs", lambda configs, size: {**COSTS, "image_size": size})
    fails, ran = [], []

    def run(command, **_):
        name = command[command.index("--only") + 1]
        ran.append(name)
        if name in fails:
            return SimpleNamespace(returncode=1)
        folder = tmp_path / "runs" / name
        folder.mkdir(parents=True)
        (folder / "metrics.json").write_text("{}")
        sizes = dict.fromkeys(("AP", "AP50", "APs", "APm", "APl"), 1.0)
        given = "--iterations" in command
        iterations = int(command[command.index("--iterations") + 1]) if given else 300
        result = {"iterations": iterations, "step_seconds": 1.0, "ap": sizes, "recall": None}
        (folder / RESULT).write_text(json.dumps(result))
        return SimpleNamespace(returncode=0)

    monkeypatch.setattr(study.subprocess, "run", run)
    files = ["--output", str(tmp_path / "runs"), "--document", str(tmp_path / "comparison.md")]

    def call(*arguments, failing=()):
        fails[:], ran[:] = failing, []
        return study.main([*files, *arguments]), list(ran)

    return call


COSTS = {"processor": "a processor", "encoders": {"dense": {"gflops": 1.0, "seconds": 1.0}}}
NAMES = [f"shapes-dino-dense-seed{seed}" for seed in range(3)]


def test_finished_trainings_are_not_repeated(command, tmp_path):
    assert command(failing=[NAMES[1]]) == (1, NAMES)
    assert "2 of 3 trainings" in (tmp_path / "comparison.md").read_text()
    assert command() == (0, [NAMES[1]])
    assert "All trainings" in (tmp_path / "comparison.md").read_text()
    assert command() == (0, [])


def test_trainings_whose_results_lie_beside_the_document_are_finished(command, tmp_path):
    assert command(failing=[NAMES[2]]) == (1, NAMES)
    written = (tmp_path / "comparison.md").read_text()
    shutil.rmtree(tmp_path / "runs")
    assert command("--write-only") == (0, [])
    assert (tmp_path / "comparison.md").read_text() == written
    shutil.rmtree(tmp_path / "runs")
    assert command() == (0, [NAMES[2]])


def test_results_of_other_iterations_are_left_where_they_are(command, tmp_path):
    command("--iterations", "9")
    shutil.rmtree(tmp_path / "runs")
    assert command("--iterations", "10") == (0, NAMES)
    (tmp_path / "runs" / NAMES[0] / RESULT).unlink()
    assert command("--iterations", "10", "--write-only") == (0, [])
    # It was begun there.
    assert not (tmp_path / "runs" / NAMES[0] / RESULT).exists()


def test_a_folder_is_for_one_number_of_iterations(command, tmp_path):
    command()
    written = (tmp_path / "comparison.md").read_text()
    with pytest.raises(SystemExit, match="seed0 is a training of 300 iterations, not of 9: choose"):
        command("--iterations", "9")
    assert (tmp_path / "comparison.md").read_text() == written


def test_a_document_loses_no_table(command, tmp_path, monkeypatch):
    command()
    written = (tmp_path / "comparison.md").read_text()
    monkeypatch.setattr(study, "cells", lambda *_: iter([Cell("shapes", "dino", "dense", 0)]))
    with pytest.raises(SystemExit, match="has the result of shapes-dino-dense-seed1, which is not"):
        command("--output", str(tmp_path / "others"))
    assert (tmp_path / "comparison.md").read_text() == written


def test_costs_are_taken_from_beside_the_document(command, tmp_path, monkeypatch):
    command()
    shutil.rmtree(tmp_path / "runs")
    monkeypatch.setattr(study, "measure_costs", None)
    assert command("--write-only") == (0, [])


def test_a_dense_detector_is_trained_again_for_the_one_made_sparse(tmp_path):
    cells = [Cell("shapes", "dino", encoder, 0) for encoder in ("dense", SPARSIFIED)]
    document, result = tmp_path / "comparison.md", json.dumps({"iterations": 9})
    for finished, taken in (cells[:1], []), (cells, cells):
        for cell in finished:
            beside = tmp_path / "comparison" / cell.name
            beside.mkdir(parents=True, exist_ok=True)
            (beside / "metrics.json").write_text("{}")
            (beside / RESULT).write_text(result)
        study.take_results(document, tmp_path / "runs", cells, 9)
        assert [cell for cell in cells if (tmp_path / "runs" / cell.name).exists()] == taken


def test_costs_are_measured_once_and_kept(command, tmp_path):
    command()
    costs = json.loads((tmp_path / "runs/costs.json").read_text())
    assert costs == {"shapes": {**COSTS, "image_size": [128, 128]}}
    command("--write-only")
    assert json.loads((tmp_path / "runs/costs.json").read_text()) == costs


def test_nothing_is_trained_to_write(command):
    assert command("--write-only") == (0, [])


def test_a_training_that_is_not_in_the_suite_is_one_line(command):
    with pytest.raises(SystemExit, match="--only dense is not in the suite"):
        command("--only", "dense")


def test_one_training_runs_in_this_process(command, monkeypatch):
    trained = []
    monkeypatch.setattr(study, "train", lambda cfg, images, trainer: trained.append(cfg))
    assert command("--only", NAMES[2], "--iterations", "60") == (0, [])
    (cfg,) = trained
    assert cfg.OUTPUT_DIR.endswith(NAMES[2])
    assert (cfg.SOLVER.MAX_ITER, cfg.SEED) == (60, 3)


def test_a_sparsified_detector_starts_from_the_dense_one_of_its_seed(command, tmp_path):
    cell = Cell("shapes", "dino", SPARSIFIED, 1)
    cfg, dense_cfg = (study.cell_config(x, None, 9, tmp_path) for x in (cell, cell.dense))
    assert cfg.MODEL.SPARSE.SHORTCUTS
    assert Path(cfg.OUTPUT_DIR) == tmp_path / cell.name
    register_datasets(cfg)
    cfg.MODEL.DEVICE = dense_cfg.MODEL.DEVICE = "cpu"
    with pytest.raises(ValueError, match="which is not there yet"):
        study.build_sparsified(cfg, dense_cfg)
    dense = build_model(dense_cfg).state_dict()
    (tmp_path / cell.dense.name).mkdir()
    torch.save({"model": dense}, tmp_path / cell.dense.name / "model_final.pth")
    trainer = study.build_sparsified(cfg, dense_cfg)
    given = trainer.dense.state_dict()
    assert all(torch.equal(given[name], tensor) for name, tensor in dense.items())


def test_the_command_gives_a_sparsified_detector_its_dense_one(command, monkeypatch, tmp_path):
    cell, built = Cell("shapes", "dino", SPARSIFIED, 0), []
    monkeypatch.setattr(study, "cells", lambda names, seeds: iter([cell]))
    monkeypatch.setattr(study, "build_sparsified", lambda cfg, dense_cfg: built.append(dense_cfg))
    monkeypatch.setattr(study, "train", lambda cfg, images, build: build(cfg))
    assert command("--only", cell.name) == (0, [])
    (dense_cfg,) = built
    assert dense_cfg.OUTPUT_DIR.endswith(cell.dense.name)
