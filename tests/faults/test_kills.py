"""A training that is killed again and again, see ``dev/kill_and_resume.py``."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.fault(area="resuming", expected="survived")
@pytest.mark.parametrize(
    ("kills", "processes"),
    [
        pytest.param(20, 1, id="20 kills at random moments"),
        pytest.param(4, 2, id="4 kills of one of two processes or of both"),
    ],
)
def test_a_training_that_is_killed_and_resumed_ends_with_the_same_bits(kills, processes):
    command = [sys.executable, "dev/kill_and_resume.py", "--kills", str(kills)]
    command += ["--processes", str(processes)]
    done = subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=1200,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{kills} kills of a training of {4 * kills} iterations" in done.stdout
    assert "tensors that differ from the undisturbed training: none" in done.stdout
    assert "files of killed processes that are left: none" in done.stdout
