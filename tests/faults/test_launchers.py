"""Two processes that launchers have started: torchrun, SLURM, and this project on two machines."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TIMEOUT = 120
ENDS_WITHIN = 15.0  # seconds after a fault
TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--nproc-per-node")
TRAIN_NET = str(ROOT / "train_net.py")

#: A module for IMPORTS: in the fifth iteration of the first start rank 1 is killed.
KILLED = """
import os, signal
from detectron2.utils.events import get_event_storage
from lite_focus_detr.modeling import DetectionTransformer

forward = DetectionTransformer.forward

def killed(self, *arguments, **options):
    if self.training and get_event_storage().iter == 4:
        os.kill(os.getpid(), signal.SIGKILL)
    return forward(self, *arguments, **options)

if (os.environ["RANK"], os.environ["TORCHELASTIC_RESTART_COUNT"]) == ("1", "0"):
    DetectionTransformer.forward = killed
"""


@pytest.fixture
def popen(tmp_path):
    """Start a command in a session of its own; ``train_net.py`` writes into ``tmp_path / "out"``.

    ``popen(before, *flags_and_changes)``: ``before`` is what ``train_net.py`` follows.
    """
    started = []
    output = tmp_path / "stdout.txt"  # more than a pipe holds

    def popen(before, *arguments):
        flags = [word for word in map(str, arguments) if word.startswith("--")]
        changes = [word for word in map(str, arguments) if not word.startswith("--")]
        command = [*before, TRAIN_NET, "--config-file", str(ROOT / "tests/engine/tiny.yaml")]
        command += [*flags, "DATASETS.SHAPES.ROOT", f"{tmp_path}/shapes"]
        command += ["OUTPUT_DIR", f"{tmp_path}/out", *changes]
        variables = {"PYTHONPATH": str(ROOT / "projects"), "OMP_NUM_THREADS": "1"}
        with output.open("a") as stdout:
            process = subprocess.Popen(
                command,
                cwd=tmp_path,
                env={**os.environ, **variables},
                stdout=stdout,
                stderr=subprocess.PIPE,
                text=True,
                start_new_session=True,
            )
        started.append(process)
        return process

    yield popen
    for process in started:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def require_success(process):
    _, errors = process.communicate(timeout=TIMEOUT)
    assert process.returncode == 0, errors[-3000:]
    return errors


@pytest.mark.fault(area="processes", expected="survived")
def test_torchrun_restarts_a_training_that_goes_on_from_its_last_checkpoint(
    popen, undisturbed, require_same_training, tmp_path
):
    (tmp_path / "killed.py").write_text(KILLED)
    before = (*TORCHRUN, "2", "--max-restarts", "1", "--master-port", str(free_port()))
    errors = require_success(popen(before, *undisturbed.changes, "IMPORTS", "['killed']"))
    assert "Signal 9 (SIGKILL) received" in errors or "exitcode: -9" in errors, errors
    assert (
        f"Loading from {tmp_path}/out/model_0000003.pth" in (tmp_path / "out/log.txt").read_text()
    )
    require_same_training(undisturbed.output, tmp_path / "out")


@pytest.mark.fault(area="processes", expected="survived")
def test_train_net_on_each_of_two_machines(popen, undisturbed, require_same_training, tmp_path):
    flags = ("--num-machines=2", f"--dist-url=tcp://127.0.0.1:{free_port()}")
    machines = [
        popen((sys.executable,), *flags, f"--machine-rank={number}", *undisturbed.changes)
        for number in range(2)
    ]
    for machine in machines:
        require_success(machine)
    require_same_training(undisturbed.output, tmp_path / "out")


@pytest.mark.fault(area="processes", expected="survived")
def test_the_variables_of_slurm(start, undisturbed, require_same_training, tmp_path):
    variables = {"SLURM_JOB_ID": os.getpid(), "SLURM_STEP_ID": 0, "SLURM_NTASKS": 2}
    variables |= {"SLURM_TASKS_PER_NODE": "2", "SLURM_NODELIST": "127.0.0.1"}

    def place(rank):
        """What srun tells a task."""
        return {**variables, "SLURM_PROCID": rank, "SLURM_LOCALID": rank}

    for finished in start(*undisturbed.changes, processes=2, place=place).finished():
        finished.succeeded()
    require_same_training(undisturbed.output, tmp_path / "out")


def children_of(process):
    found = Path(f"/proc/{process}/task/{process}/children").read_text()
    return [int(child) for child in found.split()]


@pytest.mark.fault(area="processes", expected="stopped")
def test_a_process_of_num_gpus_2_that_is_stopped_ends_all(popen, tmp_path):
    endless = ("SOLVER.MAX_ITER", 1000000, "SOLVER.CHECKPOINT_PERIOD", 1)
    flags = ("--num-gpus=2", "--dist-url=auto")
    training = popen((sys.executable,), *flags, *endless, "SOLVER.CHECKPOINT_KEEP", 2)
    while not (tmp_path / "out/last_checkpoint").exists():
        assert training.poll() is None
        time.sleep(0.05)
    *_, last = children_of(training.pid)
    os.kill(last, signal.SIGSTOP)
    _, errors = training.communicate(timeout=ENDS_WITHIN)
    assert training.returncode == 1
    (line,) = [line for line in errors.splitlines() if line.startswith("error: ")]
    assert f"(process {last}" in line
    assert line.endswith("Continue with --resume")
    assert not Path(f"/proc/{last}").exists()
