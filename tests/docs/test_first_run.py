"""What a first run asks of a newcomer, measured by the script with small numbers."""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_two_commands_and_few_lines_lead_to_a_picture():
    script, config = ROOT / "dev/measure_first_run.py", ROOT / "tests/engine/tiny.yaml"
    command = [sys.executable, script, "--config-file", config, "--iterations", "6"]
    path = {"PYTHONPATH": str(ROOT / "projects"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=path, capture_output=True, text=True, timeout=300)
    numbers = dict(re.findall(r"^(.+): ([\d.]+)", done.stdout, flags=re.MULTILINE))
    assert "seconds to the first picture" in numbers, done.stdout + done.stderr
    assert numbers["commands after the set-up"] == "2"
    # The seconds depend on the machine; the exit status also says whether they are too many.
    assert 5 <= int(numbers["lines before the first loss"]) <= 15
    assert all(len(line) <= 100 for line in done.stdout.splitlines() if line.startswith("epoch"))
