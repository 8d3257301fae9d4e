"""``eval``: AP on the data of a configuration and on folders."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from detectron2.modeling import build_model

from lite_focus_detr.config import load_config
from lite_focus_detr.tools import evaluate, train

RESULTS = "inference/coco_instances_results.json"
TINY = str(Path(__file__).parents[1] / "engine/tiny.yaml")


@pytest.fixture
def weights(tmp_path):
    cfg = load_config(TINY, ["MODEL.DETR.NUM_CLASSES", "2"])
    path = tmp_path / "run/model.pth"
    path.parent.mkdir()
    torch.manual_seed(0)
    torch.save({"model": build_model(cfg).state_dict()}, path)
    return path


def run(weights, *options):
    evaluate.main(["--weights", str(weights), "--config-file", TINY, *options])


@pytest.mark.parametrize("format", ["coco", "yolo", "voc"])
def test_every_format_gives_the_same_detections(format, write_folder, weights):
    run(weights, "--data", str(write_folder(format)))
    results = weights.parent / "evaluation/inference/coco_instances_results.json"
    detections = json.loads(results.read_text())
    # The only image of the validation split.
    assert len({detection["image_id"] for detection in detections}) == 1
    assert len(detections) > 0


def test_every_format_and_order_of_classes_gives_the_same_ap(write_folder, tmp_path, monkeypatch):
    folders = {name: write_folder(name) for name in ("coco", "yolo", "voc")}
    output = str(tmp_path / "run")
    command = ["--data", str(folders["coco"]), "--config-file", TINY, "--output", output]
    options = ("SEED", "1", "SOLVER.MAX_ITER", "40", "SOLVER.BASE_LR", "0.01")
    train.main([*command, "--opts", *options, "MODEL.DETR.NUM_QUERIES", "60"])
    # The same labels, with the classes in the other order.
    other = shutil.copytree(folders["yolo"], tmp_path / "other")
    yaml = (other / "data.yaml").read_text()
    (other / "data.yaml").write_text(yaml.replace("['cell', 'plate']", "['plate', 'cell']"))
    for path in other.rglob("*.txt"):
        lines = path.read_text().splitlines()
        path.write_text("\n".join(f"{1 - int(line[0])}{line[1:]}" for line in lines))
    results = []
    monkeypatch.setattr(evaluate, "run", lambda main, args: results.append(main(args)["bbox"]))
    for folder in (*folders.values(), other):
        evaluate.main(["--weights", f"{output}/model_final.pth", "--data", str(folder)])
    assert results[0]["AP-cell"] != results[0]["AP-plate"]
    for found in results[1:]:
        assert found == pytest.approx(results[0], nan_ok=True)


def test_the_split_and_the_place_of_the_results(write_folder, weights, tmp_path):
    run(
        weights,
        "--data",
        str(write_folder("coco")),
        "--split",
        "train",
        "--output",
        str(tmp_path / "x"),
    )
    results = json.loads((tmp_path / "x/inference/coco_instances_results.json").read_text())
    assert {detection["image_id"] for detection in results} == {1, 2, 3}
    assert not (weights.parent / "evaluation").exists()


def test_missing_weights_are_one_line(tmp_path):
    with pytest.raises(SystemExit, match=r"the checkpoint .*none\.pth does not exist"):
        run(tmp_path / "none.pth")


def test_an_optimised_detector_detects_the_same(write_folder, weights, tmp_path):
    data = str(write_folder("coco"))
    scores = []
    for place, options in (("plain", []), ("optimised", ["--optimize"])):
        run(weights, "--data", data, "--output", str(tmp_path / place), *options)
        results = json.loads((tmp_path / place / RESULTS).read_text())
        scores.append([detection["score"] for detection in results])
    assert scores[1] == pytest.approx(scores[0], abs=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], r"^error: there is no file missing\.onnx"),
        (["--optimize"], r"^error: an exported file cannot be optimised: leave --optimize out"),
    ],
)
def test_mistakes_about_an_exported_file_are_one_line(write_folder, weights, options, message):
    data = str(write_folder("coco"))
    with pytest.raises(SystemExit, match=message):
        run(weights, "--data", data, "--onnx", "missing.onnx", *options)


@pytest.mark.parametrize(
    ("weights", "expected"),
    [
        ("https://example.org/files/a.pth", "output/evaluation"),
        ("pip://package==1.0/a.pth#sha256=0", "output/evaluation"),
        ("detectron2://a.pkl", "output/evaluation"),
        ("lite_focus_dino_cells", "output/evaluation"),
        ("runs/1/model.pth", "runs/1/evaluation"),
        ("model.pth", "evaluation"),
    ],
)
def test_the_place_without_an_output(weights, expected, monkeypatch):
    given = []
    monkeypatch.setattr(evaluate, "run", lambda main, args: given.append(args.opts))
    evaluate.main(["--weights", weights, "--config-file", TINY])
    (options,) = given
    assert options[options.index("OUTPUT_DIR") + 1] == expected
