import os
import signal
import subprocess

import pytest

from lite_focus_detr.engine.process_info import is_stopped, process_start


@pytest.fixture
def other():
    process = subprocess.Popen(["sleep", "60"])
    yield process
    process.kill()
    process.wait()


def test_a_process_is_known_by_its_start():
    assert process_start(os.getpid()) == process_start(os.getpid()) != process_start(1)
    assert process_start(2**22 + 1) is None  # beyond the largest id of Linux


def test_a_process_that_has_ended_is_none(other):
    assert process_start(other.pid) is not None
    other.kill()
    os.waitid(os.P_PID, other.pid, os.WEXITED | os.WNOWAIT)
    assert process_start(other.pid) is None


def test_a_process_that_is_stopped(other):
    assert not is_stopped(other.pid)
    other.send_signal(signal.SIGSTOP)
    os.waitpid(other.pid, os.WUNTRACED)
    assert is_stopped(other.pid)
    other.send_signal(signal.SIGCONT)
    os.waitpid(other.pid, os.WCONTINUED)
    assert not is_stopped(other.pid)
    assert not is_stopped(2**22 + 1)
