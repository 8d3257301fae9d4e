"""``dev/small_file_table.py``: what it makes of trainings, without any."""

import importlib.util
import json
from argparse import Namespace
from pathlib import Path

import pytest

from lite_focus_detr import model_zoo

SCRIPT = Path(__file__).resolve().parents[2] / "dev/small_file_table.py"


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("small_file_table", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def finish(folder, ap):
    """What a training of 600 iterations leaves."""
    folder.mkdir()
    rows = [{"iteration": 19, "time": 1.0}, {"iteration": 599, "bbox/AP": ap, "bbox/AP50": 2 * ap}]
    (folder / "metrics.json").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    (folder / "model_final.pth").touch()


def test_a_row_has_the_finished_seeds_and_the_minutes(script, tmp_path):
    args = Namespace(output=tmp_path, seeds=3, names=["dino_small"])
    (tmp_path / script.SECONDS).write_text('{"dino_small": 0.5}')
    for seed, ap in ((1, 40.0), (2, 42.0)):
        finish(script.folder_of(args, "dino_small", seed), ap)
    (tmp_path / "dino_small-seed3").mkdir()  # not finished
    (*_, row) = script.table(args).splitlines()
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    # The deviation of 40 and 42 is the square root of 2.
    assert cells == ["`dino_small`", "36", "2", "41.0 ± 1.4", "82.0 ± 2.8", "5"]


def test_a_training_is_begun_once_and_goes_on_where_it_was(script, tmp_path, monkeypatch):
    commands = []
    monkeypatch.setattr(script.subprocess, "run", lambda command, check: commands.append(command))
    args, folder = Namespace(data="cells", output=tmp_path), tmp_path / "dino_small-seed1"
    script.train(args, "dino_small", folder, "SEED", 1)
    folder.mkdir()
    (folder / "last_checkpoint").touch()
    script.train(args, "dino_small", folder, "SEED", 1)
    (folder / "model_final.pth").touch()
    script.train(args, "dino_small", folder, "SEED", 1)
    assert ["--resume" in command for command in commands] == [False, True]
    assert commands[0][-2:] == ["SEED", "1"]


def test_seconds_of_other_files_are_kept(script, tmp_path, monkeypatch):
    monkeypatch.setattr(script, "train", lambda *_: None)
    monkeypatch.setattr(script, "last_values", lambda folder: {"time": 0.25})
    path = tmp_path / script.SECONDS
    path.write_text('{"dino_small": 0.5, "lite_dino_small": 0.75}')
    script.time_all(Namespace(output=tmp_path, names=["dino_small"]))
    assert json.loads(path.read_text()) == {"dino_small": 0.25, "lite_dino_small": 0.75}


def test_all_files_of_the_table_are_there(script):
    for name in script.NAMES:
        model_zoo.get_config_file(name)
