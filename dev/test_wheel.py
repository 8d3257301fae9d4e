"""Run the operators of a wheel under several releases of PyTorch.

    python dev/test_wheel.py dist/*.whl --torch 2.10.0 --torch 2.13.0+cpu [--python python3.12]

Each combination gets an environment of its own with PyTorch, the wheel without its dependencies and
nothing else, in which ``dev/fuzz_operators.py`` compares the kernels with their reference. Without
``--torch`` these are the releases from 2.10 on that pip finds. Prints a table.
"""

# ruff: noqa: T201
from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from packaging.version import Version
from tabulate import tabulate

ROOT = Path(__file__).resolve().parents[1]
OLDEST = Version("2.10")
PROBLEMS = "200"


def releases() -> list[str]:
    """The releases of PyTorch that pip finds, from the oldest supported one on."""
    command = [sys.executable, "-m", "pip", "index", "versions", "torch"]
    shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    (listed,) = re.findall(r"Available versions: (.*)", shown)
    return [text for text in listed.split(", ") if Version(text) >= OLDEST]


def try_wheel(wheel: Path, python: str, release: str) -> list[str]:
    """A row of the table: the versions and what came of it."""
    with tempfile.TemporaryDirectory() as folder:
        own = str(Path(folder, "bin", "python"))
        steps = (
            [python, "-m", "venv", folder],
            [own, "-m", "pip", "install", "--quiet", f"torch=={release}", "numpy"],
            [own, "-m", "pip", "install", "--quiet", "--no-deps", str(wheel.resolve())],
            [own, str(ROOT / "dev/fuzz_operators.py"), "--problems", PROBLEMS],
        )
        for step in steps:
            done = subprocess.run(step, cwd=folder, capture_output=True, text=True, check=False)
            if done.returncode != 0:
                lines = (done.stdout + done.stderr).strip().splitlines() or ["no output"]
                return [python, release, f"failed: {lines[-1]}"]
        return [python, release, done.stdout.strip().splitlines()[-1]]


def main(argv: list[str] | None = None) -> int:
    """Exit status: 1 if any combination fails."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("wheel", type=Path)
    parser.add_argument("--torch", action="append", help="a release; default: all from 2.10 on")
    parser.add_argument("--python", action="append", help="an interpreter; default: this one")
    options = parser.parse_args(argv)
    rows = [
        try_wheel(options.wheel, python, release)
        for python in options.python or [sys.executable]
        for release in options.torch or releases()
    ]
    print(tabulate(rows, headers=["Python", "PyTorch", "result"]))
    return 1 if any(row[-1].startswith("failed") for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
