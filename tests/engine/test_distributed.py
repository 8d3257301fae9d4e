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
TWO = ("--num-gpus", 2, "--dist-url", "auto")
TINY = Path(__file__).with_name("tiny.yaml")


# Its thread stands for those of gloo, which let go of the last tensors after ``main``. They need
# the interpreter, and abort a process that is taken apart by then.
LATE = """
import threading, time
from pathlib import Path
from detectron2.engine import default_argument_parser
from detectron2.utils import comm
from lite_focus_detr.engine import run

def finish(path):
    time.sleep(0.05)
    Path(path).write_text("finished")

def main(args):
    path = f"{args.opts[0]}{comm.get_rank()}"
    threading.Thread(target=finish, args=(path,), daemon=True).start()

if __name__ == "__main__":
    run(main, default_argument_parser().parse_args())
"""


FAILS = """
from detectron2.engine import default_argument_parser
from lite_focus_detr.engine import run

def main(args):
    raise RuntimeError("broken")

if __name__ == "__main__":
    run(main, default_argument_parser().parse_args())
"""


def run(script, *arguments, launcher=(), expected=0, **variables):
    environment = os.environ | {"PYTHONPATH": str(ROOT / "projects"), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, *launcher, str(script), *map(str, arguments)]
    done = subprocess.run(
        command,
        env=environment | variables,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == expected, done.stdout[-2000:] + done.stderr[-4000:]
    return done.stderr


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """Path of what the worker leaves with two processes."""
    path = tmp_path_factory.mktemp("distributed") / "weights.pth"
    run(WORKER, *TWO, path)
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
    command = ["--config-file", TINY, *TWO, *options]
    run(ROOT / "train_net.py", *command, "SOLVER.ACCUMULATION_STEPS", 2)
    metrics = (tmp_path / "out/metrics.json").read_text().splitlines()
    assert "bbox/AP" in json.loads(metrics[-1])
    assert (tmp_path / "out/model_final.pth").exists()


@pytest.mark.parametrize(
    ("launcher", "options"),
    [((), TWO), (("-m", "torch.distributed.run", "--nproc-per-node", "2"), ())],
    ids=["spawned", "torchrun"],
)
def test_threads_finish_before_a_process_is_taken_apart(tmp_path, launcher, options):
    script, output = tmp_path / "late.py", tmp_path / "thread"
    script.write_text(LATE)
    run(script, *options, output, launcher=launcher)
    assert [Path(f"{output}{rank}").read_text() for rank in (0, 1)] == ["finished"] * 2


def test_a_failed_run_says_why_and_leaves_no_temporary_file(tmp_path):
    script, temporary = tmp_path / "fails.py", tmp_path / "temporary"
    script.write_text(FAILS)
    temporary.mkdir()
    errors = run(script, *TWO, expected=1, TMPDIR=str(temporary))
    assert "RuntimeError: broken" in errors
    assert not list(temporary.iterdir())
