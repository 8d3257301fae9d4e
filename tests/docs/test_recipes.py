"""The configurations train as the published code does, and docs/recipes.md says what they do."""

import importlib.util
import re
from fnmatch import fnmatch
from functools import reduce
from operator import getitem
from pathlib import Path

import pytest
import yaml

from lite_focus_detr import model_zoo

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = ROOT / "configs"
RECORDS = yaml.safe_load((Path(__file__).parent / "recipes.yaml").read_text())["records"]
LEAVES = sorted(
    path.relative_to(CONFIGS).with_suffix("").as_posix()
    for path in CONFIGS.rglob("*.yaml")
    if not {"_base_", "quick_schedules"} & set(path.parts)
)


def matching(patterns):
    return [leaf for leaf in LEAVES if any(fnmatch(leaf, pattern) for pattern in patterns)]


def leaves_of(record):
    left_out = matching(record.get("except", []))
    return [leaf for leaf in matching(record["leaves"]) if leaf not in left_out]


def tables_module():
    spec = importlib.util.spec_from_file_location("recipe_tables", ROOT / "dev/recipe_tables.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("leaf", LEAVES)
def test_a_configuration_has_the_values_of_the_published_code(leaf):
    cfg = model_zoo.get_config(leaf)
    records = [record for record in RECORDS if leaf in leaves_of(record)]
    assert records, "no source is recorded"
    for record in records:
        for key, expected in record["values"].items():
            value = reduce(getitem, key.split("."), cfg)
            value = list(value) if isinstance(value, tuple) else value
            source = f"{key}, {record['repository']} {record['file']}"
            if isinstance(expected, float):
                expected = pytest.approx(expected, rel=1e-12, abs=0)
            assert value == expected, source


def test_every_record_names_its_source_and_matches_a_configuration():
    for record in RECORDS:
        assert re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{7}", record["repository"]), record
        assert record["file"]
        assert record["values"]
        for pattern in record["leaves"]:
            assert matching([pattern]), pattern


def test_every_configuration_has_a_recorded_schedule_and_batch():
    for leaf in LEAVES:
        keys = {key for record in RECORDS if leaf in leaves_of(record) for key in record["values"]}
        assert keys >= {"SOLVER.EPOCHS", "SOLVER.IMS_PER_BATCH", "SOLVER.BASE_LR"}, leaf


def test_the_tables_of_the_document_are_those_of_the_configurations():
    module = tables_module()
    assert module.update(module.DOCUMENT.read_text()) == module.DOCUMENT.read_text(), (
        "run python dev/recipe_tables.py"
    )


def test_every_configuration_is_in_the_tables():
    text = (ROOT / "docs/recipes.md").read_text()
    for leaf in LEAVES:
        if "/ablation/" not in leaf:
            assert f"`{Path(leaf).name}`" in text, leaf
