"""What CONTRIBUTING.md says of the tests."""

import ast
import importlib.util
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "projects" / "lite_focus_detr"
#: Names of detectron2, of base classes and of modules.
INHERITED = {"_trainer", "_last_eval_results", "_out_feature_channels", "_highlight"}


@pytest.fixture(scope="module")
def mutation_check():
    path = ROOT / "dev/mutation_check.py"
    spec = importlib.util.spec_from_file_location("mutation_check", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_listed_mistake_can_be_made(mutation_check):
    mutations = mutation_check.read_mutations()
    assert len(mutations) >= 100
    assert mutation_check.faults(mutations) == []
    made = [(mutation.file, mutation.old, mutation.new) for mutation in mutations]
    assert len(set(made)) == len(made)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"old": "no such text"}, "0 times 'no such text', not once"),
        ({"old": "import"}, r"\d+ times 'import', not once"),
        ({"new": "return x.clamp("}, "never closed"),
        ({"tests": ["test_nothing.py"]}, "no tests/test_nothing.py"),
        ({"file": "modeling/nothing.py"}, "No such file"),
    ],
)
def test_a_mistake_that_cannot_be_made_is_named(mutation_check, changes, message):
    fields = {"file": "modeling/box_ops.py", "old": "x = x.clamp(0, 1)", "new": "pass", "harm": "h"}
    mutation = mutation_check.Mutation(**{**fields, "tests": [], **changes})
    (fault,) = mutation_check.faults([mutation])
    assert re.search(f"^h: .*{message}", fault)


def private_names(tree):
    """Functions, classes, constants and attributes with a leading underscore that it defines."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.Name | ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.id if isinstance(node, ast.Name) else node.attr


def used_names(tree):
    """Attributes, imported names, and texts that name what a test replaces."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            yield node.attr
        elif isinstance(node, ast.alias):
            yield from node.name.split(".")
        elif isinstance(node, ast.Call):
            texts = [x.value for x in node.args if isinstance(x, ast.Constant)]
            yield from (x.rpartition(".")[2] for x in texts if isinstance(x, str))


def test_tests_use_no_private_names_of_the_package():
    private = {name for path in PACKAGE.rglob("*.py") for name in private_names(parse(path))}
    private = {x for x in private if x.startswith("_") and not x.endswith("__")} - INHERITED - {"_"}
    assert len(private) > 100
    used = {
        (str(path.relative_to(ROOT)), name)
        for path in (ROOT / "tests").rglob("*.py")
        for name in used_names(parse(path))
        if name in private
    }
    assert used == set()


def parse(path):
    return ast.parse(path.read_text())
