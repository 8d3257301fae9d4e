"""Faults of one of two processes of a training, and resuming after them."""

import errno
import json
import os
import re
import signal
import time

import pytest
import torch
from detectron2.utils.events import get_event_storage

from lite_focus_detr.data import DetrDatasetMapper
from lite_focus_detr.modeling import DetectionTransformer

TIMEOUT = 120.0
ENDS_WITHIN = 15.0  # seconds after a fault
# In an iteration after the checkpoints of two and of four iterations.
FAULT_AT = 4
stops = pytest.mark.fault(area="processes", expected="stopped")
of_both = pytest.mark.parametrize("rank", [0, 1], ids="rank {}".format)


@pytest.fixture
def at_fault(monkeypatch):
    """``at_fault(rank, owner, name, act)``: when a process calls ``owner.name`` in one iteration
    of the training, ``act(result, *arguments)`` gives the result in its place."""

    def at_fault(rank, owner, name, act):
        original = getattr(owner, name)

        def call(*arguments, **options):
            result = original(*arguments, **options)
            if os.environ["RANK"] == str(rank) and iteration() == FAULT_AT:
                return act(result, *arguments)
            return result

        monkeypatch.setattr(owner, name, call)

    return at_fault


def iteration():
    try:
        return get_event_storage().iter
    except AssertionError:
        return None


def send(number):
    """An act: the process gets a signal."""

    def act(result, *_):
        os.kill(os.getpid(), number)
        return result

    return act


def error_of(finished):
    """The one line that one of the processes has printed for all."""
    lines = [line for process in finished for line in process.errors.splitlines()]
    (line,) = [line for line in lines if line.startswith("error: ")]
    assert not [line for line in lines if "Traceback" in line], finished
    return line


@pytest.fixture
def require_exact_resume(start, monkeypatch, require_same_training, undisturbed, tmp_path):
    """The training of ``tmp_path / "out"`` goes on from its fourth iteration, to the same end."""

    def require():
        monkeypatch.undo()
        saved = [path.name for path in sorted((tmp_path / "out").glob("model_*"))]
        assert saved == ["model_0000001.pth", "model_0000003.pth"]
        assert (tmp_path / "out/last_checkpoint").read_text() == saved[-1]
        for finished in start("--resume", *undisturbed.changes, processes=2).finished():
            finished.succeeded()
        assert not list((tmp_path / "out").glob("*.tmp*"))
        require_same_training(undisturbed.output, tmp_path / "out")

    return require


@pytest.mark.fault(area="resuming", expected="survived")
def test_two_processes_that_are_killed_resume_exactly(
    start, at_fault, undisturbed, require_exact_resume
):
    for rank in (0, 1):
        at_fault(rank, DetectionTransformer, "forward", send(signal.SIGKILL))
    finished = start(*undisturbed.changes, processes=2).finished()
    assert [process.exit_code for process in finished] == [-signal.SIGKILL] * 2
    require_exact_resume()


@stops
@of_both
def test_a_process_that_is_killed_is_named_and_the_training_resumes_exactly(
    start, at_fault, undisturbed, require_exact_resume, rank
):
    at_fault(rank, DetectionTransformer, "forward", send(signal.SIGKILL))
    training = start(*undisturbed.changes, processes=2)
    training.processes[rank].join(TIMEOUT)
    finished = training.finished(ENDS_WITHIN)
    assert finished[rank].exit_code == -signal.SIGKILL
    assert finished[1 - rank].exit_code == 1
    line = error_of(finished)
    assert line.startswith(f"error: rank {rank} ")
    assert line.endswith(": all processes stop. Continue with --resume")
    assert training.left_after(2) == []
    require_exact_resume()


@stops
@of_both
def test_a_process_that_is_stopped_is_named_and_the_training_resumes_exactly(
    start, at_fault, undisturbed, require_exact_resume, rank
):
    at_fault(rank, DetectionTransformer, "forward", send(signal.SIGSTOP))
    training = start(*undisturbed.changes, processes=2)
    stopped, other = training.processes[rank], training.processes[1 - rank]
    training.wait_until_stopped(rank)
    other.join(ENDS_WITHIN)
    assert other.exitcode == 1
    os.kill(stopped.pid, signal.SIGCONT)  # it goes on and finds that it is alone
    finished = training.finished(ENDS_WITHIN)
    assert finished[rank].exit_code == 1
    assert error_of(finished).startswith(f"error: rank {rank} ")
    assert training.left_after(2) == []
    require_exact_resume()


@stops
@of_both
@pytest.mark.parametrize(
    ("owner", "name", "doing"),
    [
        pytest.param(DetrDatasetMapper, "__call__", "waiting for its data", id="reading an image"),
        pytest.param(DetectionTransformer, "forward", "computing", id="computing"),
    ],
)
def test_a_process_that_hangs_is_named_and_the_training_resumes_exactly(
    start, at_fault, undisturbed, require_exact_resume, monkeypatch, rank, owner, name, doing
):
    monkeypatch.setenv("LITE_FOCUS_DETR_TIMEOUT", "5")
    at_fault(rank, owner, name, lambda *_: time.sleep(1000))
    training = start(*undisturbed.changes, processes=2)
    training.wait_for(training.output / "model_0000003.pth")
    finished = training.finished(ENDS_WITHIN)
    assert [process.exit_code for process in finished] == [1, 1]
    line = error_of(finished)
    assert re.match(
        rf"error: rank {rank} \(process \d+ on .*\) keeps the others waiting for ", line
    )
    assert f" s in iteration {FAULT_AT}, {doing}: all processes stop." in line
    assert training.left_after(2) == []
    require_exact_resume()


def not_finite(losses, *_):
    return {name: loss * float("nan") for name, loss in losses.items()}


def gradient_not_finite(losses, *_):
    """The derivative of a root at zero."""
    loss = losses["loss_class"]
    return {**losses, "loss_class": loss + (loss - loss.detach()).abs().sqrt()}


def state_not_finite(result, optimizer, *_):
    next(iter(optimizer.state.values()))["exp_avg"].fill_(float("nan"))
    return result


@stops
@of_both
@pytest.mark.parametrize(
    ("owner", "name", "act", "cause"),
    [
        pytest.param(
            *(DetectionTransformer, "forward", not_finite, "a loss is not finite"),
            id="a loss that is not finite",
        ),
        pytest.param(
            *(DetectionTransformer, "forward", gradient_not_finite, "the gradient is not finite"),
            id="a gradient that is not finite",
        ),
        pytest.param(
            *(torch.optim.AdamW, "step", state_not_finite, "2 tensors of rank {} are not finite"),
            id="a state of the optimiser that is not finite",
        ),
    ],
)
def test_what_is_not_finite_in_one_process_stops_both_before_they_save(
    start, at_fault, undisturbed, require_exact_resume, tmp_path, rank, owner, name, act, cause
):
    at_fault(rank, owner, name, act)
    training = start(*undisturbed.changes, processes=2)
    training.wait_for(training.output / "model_0000003.pth")
    finished = training.finished(ENDS_WITHIN)
    assert [process.exit_code for process in finished] == [1, 1]
    line = error_of(finished)
    assert line.startswith(f"error: {cause.format(rank)} "), line
    (report,) = training.output.glob("nonfinite_*.json")
    assert f"{report} has the details" in line
    content = json.loads(report.read_text())
    assert [process["rank"] for process in content["processes"]] == [0, 1]
    assert training.left_after(2) == []
    require_exact_resume()


@stops
def test_a_full_disk_of_the_first_process_ends_both_and_the_training_resumes_exactly(
    start, undisturbed, require_exact_resume, monkeypatch
):
    sync = os.fsync

    def fsync(descriptor):
        if "model_0000005.pth" in os.readlink(f"/proc/self/fd/{descriptor}"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    training = start(*undisturbed.changes, processes=2)
    training.wait_for(training.output / "model_0000003.pth")
    finished = training.finished(ENDS_WITHIN)
    assert [process.exit_code for process in finished] == [1, 1]
    line = error_of(finished)
    path = training.output / "model_0000005.pth"
    assert f"could not write {path} ([Errno 28] No space left on device)" in line
    assert training.left_after(2) == []
    require_exact_resume()


@pytest.mark.fault(area="processes", expected="survived")
def test_a_full_disk_of_the_second_process_costs_its_log_only(
    start, require_same_training, undisturbed, tmp_path
):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/log.txt.rank1").symlink_to("/dev/full")
    finished = start(*undisturbed.changes, processes=2).finished()
    assert [process.exit_code for process in finished] == [0, 0]
    assert finished[1].errors.count("cannot write the log ([Errno 28]") == 1
    require_same_training(undisturbed.output, tmp_path / "out")
