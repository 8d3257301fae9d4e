"""docs/configs.md has every configuration key with its default and its comment."""

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DOCUMENT = ROOT / "docs" / "configs.md"


@pytest.fixture(scope="module")
def generator():
    spec = importlib.util.spec_from_file_location(
        "generate_config_docs", ROOT / "dev/generate_config_docs.py"
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


CLEAN_PROCESS = """
import json, sys
from detectron2.config import get_cfg
from lite_focus_detr import add_lite_focus_detr_config
sys.path.insert(0, "dev")
import generate_config_docs

def leaves(cfg, prefix=""):
    for name, value in cfg.items():
        if hasattr(value, "items") and value:
            yield from leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", repr(value)

theirs, ours = get_cfg(), get_cfg()
add_lite_focus_detr_config(ours)
known = dict(leaves(theirs))
added = {key: value for key, value in leaves(ours) if key not in known}
print(json.dumps({"document": generate_config_docs.document(), "added": added}))
"""


@pytest.fixture(scope="module")
def without_plugins():
    """Page and keys in a process of its own: other tests register encoders with further keys."""
    command = [sys.executable, "-c", CLEAN_PROCESS]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "projects")}
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True
    )
    return json.loads(done.stdout.splitlines()[-1])


def test_the_page_is_what_the_generator_writes(without_plugins):
    written = without_plugins["document"]
    assert DOCUMENT.read_text() == written, "run: python dev/generate_config_docs.py"


def test_every_key_that_the_project_adds_has_a_row(without_plugins):
    text = DOCUMENT.read_text()
    assert len(without_plugins["added"]) > 80
    for key, value in without_plugins["added"].items():
        assert f"| `{key}` | `{value}` |" in text


def test_every_comment_above_a_key_is_on_the_page(generator):
    text = re.sub(r"\s+", " ", DOCUMENT.read_text().replace("\\|", "|"))
    blocks = [
        match
        for path in generator.source_files()
        for match in re.finditer(
            r"((?:^ +#.*\n)+) +\w+\.(?:\w+\.)*[A-Z_]+(?:,.*)? =", path.read_text(), re.MULTILINE
        )
    ]
    assert len(blocks) > 40
    for block in blocks:
        comment = " ".join(line.strip().lstrip("#").strip() for line in block[1].splitlines())
        assert comment in text


def test_keys_of_encoders_and_of_nodes_passed_to_functions_are_found(generator):
    encoder = """
class ToyEncoder(Encoder):
    @staticmethod
    def add_config(cfg: CfgNode) -> None:
        # The toy.
        cfg.MODEL.TOY = toy = CfgNode()
        # How often,
        # per image.
        toy.PERIOD = 2
        toy.PLAIN = 1
        add_scorer_config(toy)
"""
    scorer = """
def add_scorer_config(node: CfgNode) -> None:
    # Channels.
    node.DIM = 8

def other(cfg):
    # Not a function that adds keys.
    cfg.X = 1
"""
    found = list(generator.settings_of([encoder, scorer]))
    assert found == [
        ("MODEL.TOY", "The toy."),
        ("MODEL.TOY.PERIOD", "How often, per image."),
        ("MODEL.TOY.PLAIN", ""),
        ("MODEL.TOY.DIM", "Channels."),
    ]
