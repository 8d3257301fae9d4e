"""The checkpoints that are shipped, their cards, and the script that makes both."""

import hashlib
import importlib.util
import re
from pathlib import Path

import pytest
import torch
from detectron2.modeling import build_model
from detectron2.structures import Boxes, Instances

from lite_focus_detr import model_zoo
from lite_focus_detr.config.trained_weights import FOLDER, trained_names
from lite_focus_detr.data import register_datasets
from lite_focus_detr.engine import DetrCheckpointer, DetrTrainer, describe_checkpoint

ROOT = Path(__file__).resolve().parents[2]
MEGABYTE = 1e6


@pytest.fixture(scope="module")
def script():
    path = ROOT / "dev/train_small_checkpoint.py"
    spec = importlib.util.spec_from_file_location("train_small_checkpoint", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def card(name):
    """The rows of the card's table."""
    text = (FOLDER / f"{name}.md").read_text()
    return dict(re.findall(r"^\| (\S[^|]*?) \| (.+) \|$", text, re.MULTILINE))


def test_there_are_shipped_checkpoints_each_with_a_card():
    assert "dino_shapes" in trained_names()
    assert sorted(path.stem for path in FOLDER.glob("*.pth")) == trained_names()


@pytest.mark.parametrize("name", trained_names())
def test_a_checkpoint_is_the_file_of_its_card_and_small(name):
    content = (FOLDER / f"{name}.pth").read_bytes()
    assert len(content) <= 4 * MEGABYTE
    assert hashlib.sha256(content).hexdigest() in card(name)["SHA-256"]
    assert f"{len(content):,} bytes" in card(name)["file"]


@pytest.mark.parametrize("name", trained_names())
def test_other_documents_repeat_the_numbers_of_the_card(name):
    ap = card(name)["AP, AP50, AP75"].split(",")[0]
    size = (FOLDER / f"{name}.pth").stat().st_size / MEGABYTE
    zoo = (ROOT / "MODEL_ZOO.md").read_text()
    (row,) = re.findall(rf"^\| \[`{name}`\]\(projects.*", zoo, re.MULTILINE)
    assert row.endswith(f" | {ap} | {size:.1f} MB |")
    for shown in re.findall(rf"`{name}`.* ([0-9.]+) AP", (ROOT / "README.md").read_text()):
        assert shown == ap


@pytest.mark.parametrize("name", trained_names())
def test_a_checkpoint_says_what_its_card_says(name):
    described = describe_checkpoint(model_zoo.get_weights_file(name))
    metrics = described.metrics["bbox"]
    expected = ", ".join(f"{metrics[key]:.1f}" for key in ("AP", "AP50", "AP75"))
    assert card(name)["AP, AP50, AP75"] == expected
    assert f"{described.threshold:.2f}" in card(name)["best threshold"]
    assert f"{described.iteration} iterations" in card(name)["training"]
    assert all(class_name in card(name)["AP by class"] for class_name in described.class_names)
    # Nothing of the machine that it was trained on.
    assert not re.search(r"/(home|root|tmp|work)/", described.config)


@pytest.mark.parametrize("name", trained_names())
def test_the_ap_of_the_card_is_that_of_the_model(name, script, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cfg = model_zoo.get_config(name, ["MODEL.DEVICE", "cpu", "DATALOADER.NUM_WORKERS", "0"])
    if not cfg.DATASETS.TEST:
        cfg.merge_from_list(script.data_options(script.SAMPLE, str(tmp_path)))
    cfg = script.sample_config(cfg)
    register_datasets(cfg)
    model = model_zoo.get(name, trained=True, device="cpu").eval()
    found = DetrTrainer.test(cfg, model)["bbox"]["AP"]
    assert found == pytest.approx(float(card(name)["AP on the sample"]), abs=0.1)


def test_packed_weights_are_those_of_the_model_in_half_precision(script, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    options = ["MODEL.DEVICE", "cpu", "DATALOADER.NUM_WORKERS", "0", "SOLVER.MAX_ITER", "7"]
    options += ["DATASETS.SHAPES.NUM_VAL", "2", "DATASETS.SHAPES.NUM_TRAIN", "2"]
    cfg = model_zoo.get_config("dino_shapes", [*options, "OUTPUT_DIR", str(tmp_path)])
    monkeypatch.setattr(script, "SAMPLE_SHAPES", 2)
    register_datasets(cfg)
    torch.manual_seed(0)
    model = build_model(cfg).eval()
    facts = script.pack(cfg, model, tmp_path / "packed.pth")
    script.write_card(tmp_path / "packed.pth", cfg, facts)

    packed = build_model(cfg)
    DetrCheckpointer(packed, cfg=cfg, for_inference=True).load(str(tmp_path / "packed.pth"))
    for name, weight in model.named_parameters():
        rounded = weight.detach().half().float()
        assert torch.equal(packed.get_parameter(name), rounded), name
    described = describe_checkpoint(str(tmp_path / "packed.pth"))
    assert described.class_names == ("rectangle", "ellipse", "triangle")
    assert described.iteration == 7
    assert str(tmp_path) not in described.config
    assert "| training | 7 iterations of 8 images" in (tmp_path / "packed.md").read_text()


def test_the_prose_of_a_card_stays_when_its_numbers_are_written_anew(script, tmp_path):
    cfg = model_zoo.get_config("dino_shapes")
    facts = {"AP": 1.0, "AP50": 2.0, "AP75": 3.0, "AP-cat": 4.0, "threshold": 0.5, "F1": 6.0}
    facts |= {"sample": 7.0, "before": 8.0, "rounding": script.Rounding(9, 1, 0.25)}
    checkpoint, document = tmp_path / "x.pth", tmp_path / "x.md"
    checkpoint.write_bytes(b"content")
    document.write_text(f"# Title\n\nBefore.\n\n{script.START}stale\n{script.END}\nAfter.\n")
    script.write_card(checkpoint, cfg, facts)
    text = document.read_text()
    assert text.startswith("# Title\n\nBefore.\n")
    assert text.endswith("\nAfter.\n")
    assert "stale" not in text
    assert hashlib.sha256(b"content").hexdigest() in text
    assert "cat 4.0" in text
    assert "1 of 9" in text


def test_a_detection_is_lost_when_no_box_of_its_class_covers_it(script):
    def detections(boxes, classes, scores):
        return Instances(
            (100, 100),
            pred_boxes=Boxes(torch.tensor(boxes)),
            pred_classes=torch.tensor(classes),
            scores=torch.tensor(scores),
        )

    first = detections([[0.0, 0, 10, 10], [20, 20, 30, 30], [50, 50, 60, 60]], [0, 0, 1], [0.5] * 3)
    second = detections(
        [[0.0, 0, 10, 10.1], [20, 20, 30, 30], [50, 50, 60, 66]], [0, 1, 1], [0.4, 0.5, 0.5]
    )
    found = script.score_changes(first, second)
    assert found[0] == pytest.approx(0.1)
    assert found[1:].isinf().all()
