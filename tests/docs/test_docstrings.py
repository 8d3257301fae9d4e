"""Constructors of the modules say what each of their arguments is."""

import ast
import re
from pathlib import Path

MODELING = Path(__file__).resolve().parents[2] / "projects" / "lite_focus_detr" / "modeling"


def constructors():
    """(class, definition) of every constructor with parameters."""
    for path in sorted(MODELING.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            for item in node.body if isinstance(node, ast.ClassDef) else ():
                if isinstance(item, ast.FunctionDef) and item.name == "__init__":
                    yield f"{path.relative_to(MODELING)}: {node.name}", item


def parameters(function):
    arguments = function.args
    named = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
    others = [x for x in (arguments.vararg, arguments.kwarg) if x is not None]
    return [argument.arg for argument in (*named, *others)][1:]


def described(function):
    """Names under ``Args:``, up to the next part of the docstring."""
    _, _, rest = (ast.get_docstring(function) or "").partition("Args:\n")
    part = re.split(r"^\S", rest, maxsplit=1, flags=re.MULTILINE)[0]
    return re.findall(r"^ {4}\**(\w+):", part, re.MULTILINE)


def test_every_argument_of_a_constructor_is_described_in_order():
    found = list(constructors())
    assert len(found) > 20
    differing = {name: (parameters(f), described(f)) for name, f in found}
    assert {k: v for k, v in differing.items() if v[0] != v[1]} == {}
