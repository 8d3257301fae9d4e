"""What the documents name exists: files, configurations, commands, make targets, keys."""

import importlib.util
import re
from pathlib import Path

import pytest
import torch
from detectron2.config import get_cfg
from detectron2.modeling import build_model
from PIL import Image

from lite_focus_detr import add_lite_focus_detr_config, model_zoo
from lite_focus_detr.__main__ import COMMANDS
from lite_focus_detr.engine.detector_record import Classes, DetectorRecord

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = (".", "configs", "docs", "kernels")
DOCUMENTS = sorted(path for folder in FOLDERS for path in (ROOT / folder).glob("*.md"))


def blocks(document):
    return re.findall(r"```bash\n(.*?)```", document.read_text(), flags=re.DOTALL)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_local_links_lead_somewhere(document):
    for target in re.findall(r"\]\(([^)#]+)\)", document.read_text()):
        if "://" not in target:
            assert (document.parent / target).exists(), target


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_commands_name_existing_files_modules_and_targets(document):
    makefile = (ROOT / "Makefile").read_text()
    for block in blocks(document):
        for config in re.findall(r"configs/\S+\.yaml", block):
            assert (ROOT / config).is_file(), config
        for module in re.findall(r"-m (lite_focus_detr\S+)", block):
            assert importlib.util.find_spec(module), module
        for command in re.findall(r"^lite-focus-detr (\w+)", block, flags=re.MULTILINE):
            assert command in COMMANDS, command
        for target in re.findall(r"^make (\w+)", block, flags=re.MULTILINE):
            assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE), target


def test_configuration_keys_in_the_readme_exist():
    cfg = get_cfg()
    add_lite_focus_detr_config(cfg)
    text = (ROOT / "README.md").read_text()
    for key in set(
        re.findall(r"\b(?:MODEL|SOLVER|DATASETS|INPUT|TEST)(?:\.[A-Z][A-Z0-9_]*)+", text)
    ):
        node = cfg
        for part in key.split("."):
            assert part in node, key
            node = node[part]


def test_every_leaf_of_the_readme_table_exists():
    rows = re.findall(r"^\| `([a-z0-9_`, ]+)` \|", (ROOT / "README.md").read_text(), re.MULTILINE)
    names = [name for row in rows for name in re.findall(r"[a-z0-9_]+ep\b", row)]
    assert len(names) >= 9
    for name in names:
        assert list(ROOT.glob(f"configs/*/{name}.yaml")), name


def test_the_python_lines_of_the_readme_run(tmp_path, monkeypatch):
    cfg = model_zoo.get_config("dino_shapes")
    cfg.MODEL.DEVICE = "cpu"
    weights = tmp_path / "runs" / "cells" / "model_best.pth"
    weights.parent.mkdir(parents=True)
    classes = Classes(("rectangle", "ellipse", "triangle"))
    record = DetectorRecord(cfg, classes=classes, iteration=lambda: 1000).state_dict()
    torch.save({"model": build_model(cfg).state_dict(), "detector": record}, weights)
    Image.new("RGB", (160, 120)).save(tmp_path / "photo.jpg")
    monkeypatch.chdir(tmp_path)
    (lines,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.DOTALL)
    assert len([line for line in lines.splitlines() if line]) == 5
    names = {}
    exec(lines, names)
    assert names["instances"].image_size == (120, 160)
    assert set(names["names"]) <= set(classes.names)
    assert set(names["instances"].get_fields()) == {"pred_boxes", "scores", "pred_classes"}
    assert type(names["model"]).__name__ == "DeformableDETR"


def test_the_first_screen_of_the_readme_has_what_a_newcomer_looks_for():
    first = "\n".join((ROOT / "README.md").read_text().splitlines()[:40])
    assert re.search(r"!\[.+\]\(docs/images/\w+\.jpg\)", first)
    assert "make demo" in first
    assert "make test" in first
    assert "```python" in first
    assert re.search(r"^\| `dino_r50_12ep` \|", first, re.MULTILINE)


def test_pictures_are_small():
    for picture in (ROOT / "docs" / "images").iterdir():
        assert picture.stat().st_size <= 150_000
