import json
from types import SimpleNamespace

import pytest

from lite_focus_detr.tools.study import __main__ as study
from lite_focus_detr.tools.study.suite import Cell
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
        result = {"iterations": 9, "step_seconds": 1.0, "ap": sizes, "recall": None}
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
    monkeypatch.setattr(study, "train", lambda cfg, images: trained.append(cfg))
    assert command("--only", NAMES[2], "--iterations", "60") == (0, [])
    (cfg,) = trained
    assert cfg.OUTPUT_DIR.endswith(NAMES[2])
    assert (cfg.SOLVER.MAX_ITER, cfg.SEED) == (60, 3)
