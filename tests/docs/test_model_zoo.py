"""MODEL_ZOO.md lists every configuration with its costs and the file that it loads."""

import importlib.util
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = ROOT / "configs"
DOCUMENT = (ROOT / "MODEL_ZOO.md").read_text()
LEAVES = sorted(
    path.relative_to(CONFIGS).with_suffix("").as_posix()
    for path in CONFIGS.rglob("*.yaml")
    if "_base_" not in path.parts
)


@pytest.fixture(scope="module")
def generator():
    spec = importlib.util.spec_from_file_location(
        "generate_model_zoo", ROOT / "dev/generate_model_zoo.py"
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def row(leaf):
    (cells,) = re.findall(
        rf"^\| \[.*?\]\(configs/{leaf}\.yaml\) \| (.*) \|$", DOCUMENT, re.MULTILINE
    )
    return cells.split(" | ")


@pytest.mark.parametrize("leaf", LEAVES)
def test_every_leaf_has_a_row_with_costs(leaf):
    _, _, epochs, gflops, parameters, *_ = row(leaf)
    assert int(epochs) > 0
    assert float(gflops) > 0
    assert re.fullmatch(r"\d+\.\d M", parameters)


def test_no_row_is_left_over():
    assert sorted(re.findall(r"\(configs/(.+?)\.yaml\)", DOCUMENT)) == LEAVES


@pytest.mark.parametrize(
    "leaf", ["deformable_detr/dino_r50_12ep", "quick_schedules/lite_dino_shapes"]
)
def test_rows_are_what_the_generator_measures(generator, leaf):
    assert generator.row(leaf) in DOCUMENT


@pytest.mark.parametrize("leaf", LEAVES)
def test_the_published_file_is_that_of_the_first_comment(leaf):
    comment = " ".join(
        line.lstrip("# ")
        for line in (CONFIGS / f"{leaf}.yaml").read_text().split("_BASE_")[0].splitlines()
    )
    *_, file, ap = row(leaf)
    if "Loads" not in comment:
        assert (file.strip(), ap.strip()) == ("", "")
        return
    assert file.strip()
    for name in re.findall(r"`(\S+)`", file):
        assert name in comment
    if ap.strip():
        assert f"{ap.strip()} AP" in comment.partition("Loads")[2]


def test_it_says_that_no_checkpoint_of_the_project_exists():
    assert "No checkpoint of this project's own has been trained on COCO yet" in DOCUMENT
