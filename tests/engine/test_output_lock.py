import json
import os
import socket
import subprocess
import sys
import time

import pytest

from lite_focus_detr.engine.output_lock import (
    LOCK_NAME,
    keep_output_for_restart,
    lock_output,
    release_output,
)
from lite_focus_detr.engine.process_info import process_start


@pytest.fixture
def hold(tmp_path):
    """Write the lock of another process: ``hold(host=..., process=..., started=..., age=...)``."""

    def hold(*, age=0.0, **holder):
        content = {"host": socket.gethostname(), "process": 1, "started": "?", "run": ""}
        path = tmp_path / LOCK_NAME
        path.write_text(json.dumps({**content, "since": "then", **holder}))
        os.utime(path, (time.time() - age,) * 2)

    yield hold
    release_output(str(tmp_path))


@pytest.fixture
def other():
    """A process that is alive."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        yield process.pid
        process.kill()


def is_taken(folder):
    try:
        lock_output(str(folder))
    except ValueError:
        return False
    assert json.loads((folder / LOCK_NAME).read_text())["process"] == os.getpid()
    return True


def test_a_lock_is_taken_renewed_and_given_back(tmp_path):
    assert lock_output(str(tmp_path)) is False
    assert [path.name for path in tmp_path.iterdir()] == [LOCK_NAME]
    assert is_taken(tmp_path)  # by this process again
    release_output(str(tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_the_lock_of_a_living_process_is_respected_however_old(tmp_path, hold, other):
    hold(process=other, started=process_start(other), age=1000)
    with pytest.raises(ValueError, match=rf"in use by a training since then \(process {other} on"):
        lock_output(str(tmp_path))
    assert json.loads((tmp_path / LOCK_NAME).read_text())["process"] == other


def test_the_lock_of_a_process_that_is_gone_is_taken(tmp_path, hold):
    done = subprocess.Popen([sys.executable, "-c", ""])
    started = process_start(done.pid)
    done.wait()
    hold(process=done.pid, started=started)
    assert is_taken(tmp_path)


def test_a_later_process_with_the_same_id_is_told_apart(tmp_path, hold, other):
    hold(process=other, started="another boot 17")
    assert is_taken(tmp_path)


@pytest.mark.parametrize(("age", "taken"), [(0, False), (50, False), (70, True)])
def test_a_lock_of_another_machine_is_stale_after_a_minute(tmp_path, hold, age, taken):
    hold(host="elsewhere", age=age)
    assert is_taken(tmp_path) is taken


@pytest.mark.parametrize("content", ["", "{", "[]"])
def test_a_damaged_lock_is_taken(tmp_path, hold, content):
    (tmp_path / LOCK_NAME).write_text(content)
    assert is_taken(tmp_path)


def test_a_restart_by_torchrun_takes_its_own_lock_and_knows_it(tmp_path, hold, monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "job7")
    hold(host="elsewhere", run="job7")
    assert lock_output(str(tmp_path)) is True
    keep_output_for_restart(str(tmp_path))
    release_output(str(tmp_path))
    assert (tmp_path / LOCK_NAME).exists()
    assert lock_output(str(tmp_path)) is True
    # The name that torchrun gives where none was given tells nothing.
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    release_output(str(tmp_path))
    hold(host="elsewhere", run="none")
    assert not is_taken(tmp_path)


def test_without_hard_links_the_lock_works_as_well(tmp_path, monkeypatch, hold, other):
    def refuse(*_):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    assert is_taken(tmp_path)
    hold(process=other, started=process_start(other))
    assert not is_taken(tmp_path)
