"""Signals and kills of trainings with one and two processes."""

import os
import signal

import pytest

from lite_focus_detr.engine import read_checkpoint

STATUS = {"SIGTERM": 143, "SIGUSR1": 138, "SIGINT": 130}
# Ends only by a signal.
ENDLESS = ("SOLVER.MAX_ITER", 1000000, "SOLVER.CHECKPOINT_PERIOD", 1, "SOLVER.CHECKPOINT_KEEP", 2)


def iterations_in(folder):
    name = (folder / "last_checkpoint").read_text()
    return read_checkpoint(str(folder / name))["iteration"] + 1


def require_one_line(finished, name, output):
    """The line how to continue, once in all processes, with what it says."""
    lines = [line for process in finished for line in process.errors.splitlines() if line]
    (line,) = [line for line in lines if "Continue with" in line]
    assert line.startswith(f"{name}: stopped after {iterations_in(output)} of 1000000 iterations")
    assert "Continue with: python train_net.py --resume --config-file " in line
    assert lines == [line]


@pytest.mark.fault(area="signals", expected="stopped")
@pytest.mark.parametrize(
    ("name", "processes"),
    [
        pytest.param(name, processes, id=f"{name}, {processes} process" + "es" * (processes - 1))
        for processes in (1, 2)
        for name in STATUS
    ],
)
def test_a_signal_leaves_a_checkpoint_and_one_line_and_no_process(start, tmp_path, name, processes):
    training = start(*ENDLESS, "DATALOADER.NUM_WORKERS", 1, processes=processes)
    training.wait_for(tmp_path / "out/last_checkpoint")
    # To the last one only: all of them stop.
    os.kill(training.processes[-1].pid, getattr(signal, name))
    finished = training.finished()
    assert [process.exit_code for process in finished] == [STATUS[name]] * processes, finished
    assert training.left_after(2) == []
    require_one_line(finished, name, tmp_path / "out")
    assert not list((tmp_path / "out").glob("*.tmp*"))
    assert not (tmp_path / "out/.training.lock").exists()


@pytest.mark.fault(area="processes", expected="refused")
@pytest.mark.parametrize("flag", [pytest.param("--resume", id="a second run in an OUTPUT_DIR")])
def test_an_output_folder_has_one_training(start, tmp_path, flag):
    first = start(*ENDLESS)
    first.wait_for(tmp_path / "out/last_checkpoint")
    (second,) = start(flag, *ENDLESS).finished()
    line = second.refusal()
    assert f"OUTPUT_DIR {tmp_path / 'out'} is in use by a training since " in line
    assert f"(process {first.processes[0].pid} on " in line
    assert line.endswith(": wait for it, stop it, or set another OUTPUT_DIR")
    assert first.processes[0].is_alive()
