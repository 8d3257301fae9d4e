"""docs/reliability.md lists the faults that the tests try."""

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DOCUMENT = ROOT / "docs" / "reliability.md"


def test_the_table_is_that_of_the_tests():
    # In a process of its own: pytest does not collect within a test.
    command = [sys.executable, "dev/generate_fault_table.py", "--check"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "projects")}
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"run: python dev/generate_fault_table.py\n{done.stderr}"


def test_no_fault_is_silent_and_none_loses_anything():
    [counts] = re.findall(r"^\*\*(\d+) faults are tried: (.*)\*\*$", DOCUMENT.read_text(), re.M)
    total, outcomes = int(counts[0]), [int(number) for number in re.findall(r"\d+", counts[1])]
    assert outcomes[-1] == 0
    assert sum(outcomes) == total
    numbers = re.findall(r"^\| (\d+) \|", DOCUMENT.read_text(), re.M)
    assert [int(number) for number in numbers] == list(range(1, total + 1))


def test_the_folder_of_the_faults_runs_them_all():
    command = [sys.executable, "-m", "pytest", "tests/faults", "--collect-only", "-q"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "projects")}
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    [total] = re.findall(r"^\*\*(\d+) faults are tried: ", DOCUMENT.read_text(), re.M)
    assert re.search(rf"^{total}/\d+ tests collected", done.stdout, re.M), done.stdout[-2000:]
