"""Make realistic mistakes in a copy of the sources, one at a time, and see which the tests catch.

python dev/mutation_check.py              all of dev/mutations.yaml; those with a result are skipped
python dev/mutation_check.py decoder data those whose file has one of these words in its path
python dev/mutation_check.py --check      only whether every mistake can still be made

A mistake replaces a text that occurs once in a file of the package, whose tests must catch it, or
those that the list names. Results are kept in build/mutations.json until the file or the tests
change. At the end the tests that have caught mistakes run without any: they must pass.
"""

# ruff: noqa: T201
from __future__ import annotations

import argparse
import hashlib
import importlib.util
import json
import multiprocessing
import os
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import pytest
import yaml
from tabulate import tabulate

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = Path("projects/lite_focus_detr")
RESULTS = ROOT / "build" / "mutations.json"
LIBRARIES = ("detectron2.engine", "detectron2.evaluation", "matplotlib.figure", "timm")
TIMEOUT = 900  # Seconds; a mistake may make a loop endless.
NOT_COPIED = shutil.ignore_patterns(".*", "build", "datasets", "dist", "output", "__pycache__")


class Mutation(NamedTuple):
    """A mistake."""

    file: str  #: below the package
    old: str  #: occurs once in it
    new: str
    harm: str  #: what a user would suffer
    tests: Sequence[str]  #: files below tests/, or single tests of them, file::name

    def apply(self, text: str) -> str:
        """The text of the file with the mistake."""
        if text.count(self.old) != 1 or self.old == self.new:
            raise ValueError(f"{self.file} has {text.count(self.old)} times {self.old!r}, not once")
        return text.replace(self.old, self.new)

    def fingerprint(self, root: Path) -> str:
        """Of the wrong file and of its tests in a copy of the project; not of what these use."""
        texts = [self.apply((root / PACKAGE / self.file).read_text())]
        texts += [(root / "tests" / test.split("::")[0]).read_text() for test in self.tests]
        return hashlib.sha256("\0".join(texts).encode()).hexdigest()


class Result(NamedTuple):
    """What became of a mistake."""

    outcome: str  #: caught, survived, or why the tests did not run
    test: str = ""  #: that caught it; none if it ran too long


def mirror(file: str) -> str:
    """The tests of a file of the package."""
    path = Path(file)
    return path.with_name(f"test_{path.stem.strip('_')}.py").as_posix()


def read_mutations() -> list[Mutation]:
    """All mistakes of the list."""
    entries = yaml.safe_load((ROOT / "dev" / "mutations.yaml").read_text())
    return [Mutation(**{"tests": [mirror(entry["file"])], **entry}) for entry in entries]


def faults(mutations: Sequence[Mutation]) -> list[str]:
    """Why some mistakes cannot be made or tested."""
    found = []
    for mutation in mutations:
        try:
            text = (ROOT / PACKAGE / mutation.file).read_text()
            compile(mutation.apply(text), mutation.file, "exec")
        except (OSError, ValueError, SyntaxError) as error:
            found.append(f"{mutation.harm}: {error}")
        found += [f"{mutation.harm}: no tests/{x}" for x in mutation.tests if not exists(x)]
    return found


def exists(test: str) -> bool:
    """Whether a file below tests/ is there, and with ``::`` a test in it."""
    file, _, name = test.partition("::")
    path = ROOT / "tests" / file
    return path.is_file() and f"def {name}" in path.read_text()


def run_tests(copy: Path, tests: Sequence[str]) -> Result:
    """Run test files or single tests in a copy of the project up to the first failure."""
    cache = copy / ".pytest_cache"
    shutil.rmtree(cache, ignore_errors=True)
    # A fork has the libraries, whose import takes longer than most tests, but not the package.
    run = multiprocessing.get_context("fork").Process(target=call_pytest, args=(copy, cache, tests))
    run.start()
    run.join(TIMEOUT)
    if run.is_alive():
        run.kill()
        return Result("caught")
    if run.exitcode == 0:
        return Result("survived")
    failed = cache / "v" / "cache" / "lastfailed"
    if run.exitcode != 1 or not failed.is_file():
        return Result((copy / "pytest.log").read_text()[-500:])
    return Result("caught", next(iter(json.loads(failed.read_text()))))


def call_pytest(copy: Path, cache: Path, tests: Sequence[str]) -> None:
    """The process of :func:`run_tests`; its exit code is that of pytest."""
    log = os.open(copy / "pytest.log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.chdir(copy)
    # Not the sources that are installed; the variable is for processes that tests start.
    paths = [str(copy / "projects"), str(copy)]
    sys.path[:0] = paths
    os.environ["PYTHONPATH"] = os.pathsep.join(paths)
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    sys.exit(int(pytest.main(["-x", "-q", "-o", f"cache_dir={cache}", *tests])))


def try_mutation(copy: Path, mutation: Mutation) -> Result:
    """Make a mistake in the copy, run its tests, and correct it."""
    source = copy / PACKAGE / mutation.file
    text = source.read_text()
    # Python tells compiled files by the second.
    compiled = Path(importlib.util.cache_from_source(str(source)))
    source.write_text(mutation.apply(text))
    compiled.unlink(missing_ok=True)
    result = run_tests(copy, [f"tests/{test}" for test in mutation.tests])
    source.write_text(text)
    compiled.unlink(missing_ok=True)
    return result


def table(results: Sequence[tuple[Mutation, Result]]) -> str:
    """How many mistakes of each folder were caught."""
    made = Counter(Path(m.file).parent.as_posix() for m, _ in results)
    caught = Counter(Path(m.file).parent.as_posix() for m, r in results if r.outcome == "caught")
    rows = [(folder, count, caught[folder]) for folder, count in sorted(made.items())]
    rows.append(("all", made.total(), caught.total()))
    return str(tabulate(rows, headers=("folder", "mistakes", "caught")))


def run(mutations: Sequence[Mutation]) -> int:
    """Try the mistakes; the exit status is 0 if all are caught."""
    for name in LIBRARIES:
        importlib.import_module(name)
    known = json.loads(RESULTS.read_text()) if RESULTS.is_file() else {}
    RESULTS.parent.mkdir(exist_ok=True)
    results = []
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "copy"
        shutil.copytree(ROOT, copy, ignore=NOT_COPIED)
        for mutation in mutations:
            key = mutation.fingerprint(copy)
            if key not in known:
                known[key] = try_mutation(copy, mutation)
                RESULTS.write_text(json.dumps(known))
            result = Result(*known[key])
            print(f"{result.outcome:9}{mutation.file}: {mutation.harm}  {result.test}", flush=True)
            results.append((mutation, result))
        caught = sorted({result.test for _, result in results if result.test})
        without = run_tests(copy, caught) if caught else Result("survived")
    print(f"\n{table(results)}")
    if without.outcome != "survived":
        print(f"\n{without.test or without.outcome} fails without any mistake")
    all_caught = all(result.outcome == "caught" for _, result in results)
    return int(not all_caught or without.outcome != "survived")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    parser = argparse.ArgumentParser(description="Do the tests catch realistic mistakes?")
    parser.add_argument("words", nargs="*", help="of the paths of files; by default all")
    parser.add_argument("--check", action="store_true", help="only check the list")
    args = parser.parse_args(arguments)
    mutations = read_mutations()
    found = faults(mutations)
    print("\n".join(found or [f"{len(mutations)} mistakes can be made"]))
    if args.check or found:
        return int(bool(found))
    return run([m for m in mutations if not args.words or any(w in m.file for w in args.words)])


if __name__ == "__main__":
    sys.exit(main())
