"""What the documents name exists: files, configurations, commands, make targets, keys."""

import importlib.util
import re
from pathlib import Path

import pytest
from detectron2.config import get_cfg

from lite_focus_detr import add_lite_focus_detr_config

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
