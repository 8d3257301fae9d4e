"""``train --data``: three formats of the same data, mistakes, continuation."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

from lite_focus_detr.engine import read_checkpoint
from lite_focus_detr.tools import train

TINY = str(Path(__file__).parents[1] / "engine/tiny.yaml")


def run(folder, output, *options):
    command = ["--data", str(folder), "--config-file", TINY, "--output", str(output), "--opts"]
    train.main([*command, "SEED", "3", "MODEL.DETR.NUM_QUERIES", "9", *options])
    return json.loads((output / "metrics.json").read_text().splitlines()[-1])


def test_coco_and_yolo_train_to_the_same_weights(write_folder, tmp_path):
    metrics = {name: run(write_folder(name), tmp_path / name) for name in ("coco", "yolo")}
    weights = [
        read_checkpoint(str(tmp_path / name / "model_final.pth"))["model"] for name in metrics
    ]
    assert weights[0].keys() == weights[1].keys()
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])
    coco, yolo = (
        {key: value for key, value in x.items() if "bbox" in key or "loss" in key}
        for x in metrics.values()
    )
    assert coco == pytest.approx(yolo, nan_ok=True)
    assert "bbox/AP" in coco


def test_options_of_the_user_beat_those_of_the_folder(write_folder, tmp_path):
    folder = write_folder("voc")
    run(folder, tmp_path / "out", "DATASETS.TEST", "('voc_test',)")
    cfg = yaml.safe_load((tmp_path / "out/config.yaml").read_text())
    assert cfg["DATASETS"]["TEST"] == ["voc_test"]
    assert cfg["DATASETS"]["TRAIN"] == ["voc_train"]
    assert cfg["MODEL"]["DETR"]["NUM_CLASSES"] == 2


def test_weights_of_this_project_bring_their_configuration(write_folder, tmp_path, monkeypatch):
    folder = write_folder("coco")
    run(folder, tmp_path / "first")
    monkeypatch.chdir(tmp_path)
    before = (tmp_path / "first/model_final.pth").read_bytes()
    weights = str(tmp_path / "first/model_final.pth")
    train.main(["--data", str(folder), "--weights", weights, "--opts", "SOLVER.MAX_ITER", "1"])
    cfg = yaml.safe_load((tmp_path / "output/config.yaml").read_text())
    assert cfg["MODEL"]["DETR"]["NUM_QUERIES"] == 9
    assert cfg["MODEL"]["WEIGHTS"] == weights
    assert (tmp_path / "first/model_final.pth").read_bytes() == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "error: give --data FOLDER, or --config-file"),
        (["--data", "none"], "error: the data folder none does not exist"),
        (["--config-file", "lite_dino_smal"], "error: configuration lite_dino_smal is not in the"),
        (["--config-file", "lite_dino_smal.yaml"], "; did you mean lite_dino_small"),
        (["--data", ".", "--opts", "SOLVER.MAX_ITR", "3"], "did you mean SOLVER.MAX_ITER"),
    ],
)
def test_mistakes_are_one_line(arguments, message):
    with pytest.raises(SystemExit) as end:
        train.main(arguments)
    assert message in end.value.code
    assert "\n" not in end.value.code


def test_optional_libraries_and_those_of_pictures_are_imported_when_they_are_used():
    heavy = ("timm", "matplotlib", "tensorboard", "supervision", "gradio", "hotcoco", "av", "wandb")
    program = (
        "import sys, lite_focus_detr; assert 'torch' not in sys.modules; "
        f"import lite_focus_detr.tools.train; print([x for x in {heavy} if x in sys.modules])"
    )
    path = {"PYTHONPATH": str(Path(__file__).parents[2] / "projects")}
    done = subprocess.run(
        [sys.executable, "-c", program], env=os.environ | path, capture_output=True, text=True
    )
    assert done.stdout == "[]\n", done.stderr
