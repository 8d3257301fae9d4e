import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from .distributed_worker import CASES, train

ROOT = Path(__file__).parents[2]
WORKER = Path(__file__).with_name("distributed_worker.py")
TINY = Path(__file__).with_name("tiny.yaml")


def run(script, *arguments):
    environment = os.environ | {"PYTHONPATH": str(ROOT / "projects"), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(script), *map(str, arguments)]
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """Path of what the worker leaves with two processes."""
    path = tmp_path_factory.mktemp("distributed") / "weights.pth"
    run(WORKER, 2, path)
    return path


@pytest.mark.parametrize("case", CASES)
def test_two_processes_learn_what_one_learns_from_the_doubled_batch(results, case):
    start, expected = train(*CASES[case])
    _, actual = torch.load(results)[case]
    assert (expected - start).norm() > 1e-3 * start.norm()
    assert (actual - expected).norm() / expected.norm() < 1e-6
    assert (actual - expected).norm() / (expected - start).norm() < 1e-5


def test_denoising_trains_when_one_process_has_no_box(results):
    start, end = torch.load(results)["denoising"]
    assert end.isfinite().all()
    assert (end - start).norm() > 1e-3 * start.norm()


def test_all_processes_stop_together_at_a_loss_that_is_not_finite(results):
    messages = [Path(f"{results}.error{rank}").read_text() for rank in (0, 1)]
    assert messages[0] == messages[1]
    assert "'rank': 1, 'losses': {'loss': nan}, 'images': ['rank1.jpg']" in messages[0]


def test_two_cpu_processes_train_and_evaluate_from_the_command_line(options, tmp_path):
    command = ["--config-file", TINY, "--num-gpus", 2, "--dist-url", "auto", *options]
    run(ROOT / "train_net.py", *command, "SOLVER.ACCUMULATION_STEPS", 2)
    metrics = (tmp_path / "out/metrics.json").read_text().splitlines()
    assert "bbox/AP" in json.loads(metrics[-1])
    assert (tmp_path / "out/model_final.pth").exists()
