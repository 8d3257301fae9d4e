"""``python dev/generate_config_docs.py`` writes every configuration key into docs/configs.md.

Defaults are those of ``add_lite_focus_detr_config``. The description of a key is the comment right
above its assignment in a function ``add_config``, ``add_..._config`` or ``_add_...`` of the
configuration or of an encoder; a comment above several assignments describes the first, and one
above the assignment of a node describes the node.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from detectron2.config import CfgNode, get_cfg

from lite_focus_detr import add_lite_focus_detr_config

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "projects" / "lite_focus_detr"
DOCUMENT = ROOT / "docs" / "configs.md"
ADDS_KEYS = re.compile(r"add_config|add_\w+_config|_add_\w+")
PREAMBLE = (
    "# Configuration keys\n\n"
    "What this project adds to [detectron2's configuration]"
    "(https://detectron2.readthedocs.io/en/latest/modules/config.html), with defaults. "
    "[`dev/generate_config_docs.py`](../dev/generate_config_docs.py) writes this page from the "
    "comments in the source. `validate_config` refuses values and mixtures that cannot be built "
    "or trained, and names the keys; a misspelt key is answered with the likely ones.\n\n"
    "Detectors are described by the files in [`configs/`](../configs/README.md), not by these "
    "defaults.\n"
)

Names = dict[str, str]


class Setting(NamedTuple):
    """One assignment to a configuration attribute."""

    key: str  #: dotted, without ``cfg``
    comment: str  #: empty where there is none


class Function(NamedTuple):
    """A function that adds keys, with the lines of its file."""

    node: ast.FunctionDef
    lines: list[str]

    @property
    def parameter(self) -> str:
        """Name of the first parameter: ``cfg``, or that of a node."""
        return self.node.args.args[0].arg


def source_files() -> list[Path]:
    """Files that may add keys."""
    config = [PACKAGE / "config.py", *sorted((PACKAGE / "config").glob("*.py"))]
    encoders = sorted((PACKAGE / "modeling" / "encoder").glob("*.py"))
    return [path for path in (*config, *encoders) if path.is_file()]


def settings_of(sources: Iterable[str]) -> Iterator[Setting]:
    """Assignments to configuration attributes in all functions of some files that add keys.

    A function that takes a node instead of ``cfg`` is followed from its calls.
    """
    functions = [
        Function(node, source.splitlines())
        for source in sources
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.FunctionDef) and ADDS_KEYS.fullmatch(node.name) and node.args.args
    ]
    by_name = {function.node.name: function for function in functions}
    for function in functions:
        if function.parameter == "cfg":
            yield from _settings_in(function, {"cfg": ""}, by_name)


def _settings_in(
    function: Function, nodes: Names, by_name: dict[str, Function]
) -> Iterator[Setting]:
    """Follow the statements; ``nodes``: variable -> dotted name of the node that it holds."""
    for statement in function.node.body:
        if isinstance(statement, ast.Assign):
            comment = _comment_above(statement.lineno, function.lines)
            yield from _assigned(statement, nodes, comment)
        elif isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Call):
            yield from _settings_of_call(statement.value, nodes, by_name)


def _settings_of_call(
    call: ast.Call, nodes: Names, by_name: dict[str, Function]
) -> Iterator[Setting]:
    callee = by_name.get(call.func.id) if isinstance(call.func, ast.Name) else None
    prefix = _dotted(call.args[0], nodes) if call.args else None
    if callee is not None and prefix:
        yield from _settings_in(callee, {callee.parameter: prefix}, by_name)


def _assigned(statement: ast.Assign, nodes: Names, comment: str) -> Iterator[Setting]:
    targets = [
        target
        for group in statement.targets
        for target in (group.elts if isinstance(group, ast.Tuple) else [group])
    ]
    attributes = [target for target in targets if isinstance(target, ast.Attribute)]
    keys = [key for target in attributes if (key := _dotted(target, nodes))]
    # ``solver = cfg.SOLVER`` and ``cfg.MODEL.LITE = lite = CN()`` name a node.
    node = keys[0] if keys else _dotted(statement.value, nodes)
    if node:
        nodes.update({target.id: node for target in targets if isinstance(target, ast.Name)})
    comments = [comment, *[""] * len(keys)]
    yield from map(Setting, keys, comments)


def _dotted(node: ast.AST, nodes: Names) -> str | None:
    """The key that an expression such as ``cfg.MODEL.LITE`` stands for."""
    if isinstance(node, ast.Name):
        return nodes.get(node.id)
    if isinstance(node, ast.Attribute):
        parent = _dotted(node.value, nodes)
        if parent is not None:
            return f"{parent}.{node.attr}".lstrip(".")
    return None


def _comment_above(line: int, lines: list[str]) -> str:
    """The block of comment lines that ends just before a line, counted from 1."""
    block: list[str] = []
    for text in reversed(lines[: line - 1]):
        if not text.strip().startswith("#"):
            break
        block.insert(0, text.strip().lstrip("#").strip())
    return " ".join(block)


def comments() -> Names:
    """Key or node -> comment, of all sources."""
    settings = settings_of(path.read_text() for path in source_files())
    return {setting.key: setting.comment for setting in settings if setting.comment}


def defaults() -> dict[str, object]:
    """Every key that the project adds, and detectron2's whose default it changes."""
    theirs, ours = get_cfg(), get_cfg()
    add_lite_focus_detr_config(ours)
    before = dict(_flatten(theirs))
    return {key: value for key, value in _flatten(ours) if before.get(key, ...) != value}


def _flatten(cfg: CfgNode, prefix: str = "") -> Iterator[tuple[str, object]]:
    for name, value in cfg.items():
        key = f"{prefix}{name}"
        if isinstance(value, CfgNode) and value:
            yield from _flatten(value, f"{key}.")
        else:
            yield key, value


def document() -> str:
    """The whole page."""
    values, described = defaults(), comments()
    sections: dict[str, list[str]] = {}
    for key in values:
        sections.setdefault(_section(key), []).append(key)
    parts = [PREAMBLE]
    for section in sorted(sections):
        parts.append(f"\n## `{section}`\n\n")
        if section in described and section not in values:
            parts.append(described[section] + "\n\n")
        parts.append("| key | default | |\n| --- | --- | --- |\n")
        parts += _rows(section, {key: values[key] for key in sections[section]}, described)
    return "".join(parts)


def _section(key: str) -> str:
    """The first two names of a key, or the first if there are only two."""
    return ".".join(key.split(".")[:2]) if key.count(".") > 1 else key.split(".")[0]


def _rows(section: str, values: dict[str, object], described: Names) -> Iterator[str]:
    """A row per key, and one before the keys of a node that has a comment."""
    seen = {section}
    for key, value in values.items():
        node = key.rpartition(".")[0]
        if node not in seen and node in described:
            yield _row(f"{node}.*", "", described[node])
        seen.add(node)
        yield _row(key, f"`{value!r}`", described.get(key, ""))


def _row(key: str, default: str, text: str) -> str:
    escaped = text.replace("|", "\\|")
    return f"| `{key}` | {default} | {escaped} |\n"


if __name__ == "__main__":
    DOCUMENT.write_text(document())
