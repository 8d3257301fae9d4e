"""The command ``lite-focus-detr``: all tools by short names.

lite-focus-detr COMMAND [OPTIONS]
lite-focus-detr COMMAND --help
"""

from __future__ import annotations

import ast
import importlib
import sys
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path

PROGRAM = "lite-focus-detr"

#: Modules below ``lite_focus_detr.tools``, in the order in which ``--help`` lists them.
COMMANDS = {
    "train": "train",
    "eval": "evaluate",
    "demo": "demo",
    "check": "check_dataset",
    "report": "report",
    "compare": "compare",
    "page": "page",
    "convert": "convert_checkpoint",
    "export": "export_model",
    "analyze": "analyze_model",
    "benchmark": "benchmark",
    "visualize": "visualize",
    "points": "visualize_attention",
    "tokens": "visualize_tokens",
    "sparsify": "sparsify",
    "study": "study",
    "env": "check_env",
}


def main(arguments: Sequence[str] | None = None) -> int | None:
    """Run the command that ``arguments``, or the command line, name; returns its exit status."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    modules = find_modules()
    if not arguments or arguments[0] in ("-h", "--help"):
        print(usage(modules))
        return 0 if arguments else 2
    if arguments[0] == "--version":
        print(f"{PROGRAM} {importlib.import_module('lite_focus_detr').__version__}")
        return 0
    name, *rest = arguments
    if name not in modules:
        print(f"error: {name!r} is no command; there are {', '.join(modules)}", file=sys.stderr)
        return 2
    command = importlib.import_module(modules[name])
    status: int | None = command.main(rest)
    return status


def find_modules() -> dict[str, str]:
    """The module of each command that is there, without importing it."""
    places = {name: f"lite_focus_detr.tools.{module}" for name, module in COMMANDS.items()}
    found = {}
    for name, module in places.items():
        spec = find_spec(module)
        if spec is None:
            continue
        is_package = spec.submodule_search_locations is not None
        inside = f"{module}.__main__"
        found[name] = inside if is_package and find_spec(inside) is not None else module
    return found


def usage(modules: Mapping[str, str]) -> str:
    """One line for each command, the first of its module's docstring.

    Args:
        modules: of :func:`find_modules`.
    """
    lines = [f"usage: {PROGRAM} COMMAND [OPTIONS]", "", "commands:"]
    width = max(map(len, modules))
    lines += [f"  {name:{width}}  {_summary(module)}" for name, module in modules.items()]
    lines += ["", f"{PROGRAM} COMMAND --help shows the options of a command."]
    return "\n".join(lines)


def _summary(module: str) -> str:
    spec = find_spec(module)
    source = Path(spec.origin).read_text(encoding="utf-8") if spec and spec.origin else ""
    docstring = ast.get_docstring(ast.parse(source)) or ""
    return docstring.partition("\n")[0]


if __name__ == "__main__":
    sys.exit(main())
