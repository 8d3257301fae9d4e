import os
import signal
import time

import pytest

from lite_focus_detr.engine import signals

STATUS = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGUSR1: 138}


def in_child(body):
    """Exit status of a process that calls ``body`` and exits with what it returns."""
    child = os.fork()
    if child == 0:
        status = 99
        try:
            status = body() or 0
        except SystemExit as end:
            status = end.code
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.mark.parametrize("number", STATUS)
def test_a_signal_ends_the_process_with_its_status(number):
    before = signal.getsignal(number)
    with pytest.raises(signals.Interrupted) as ended, signals.handled():
        signal.raise_signal(number)
    assert ended.value.code == STATUS[number]
    assert ended.value.signal_name == number.name
    assert signal.getsignal(number) is before


def test_a_deferred_signal_is_noted_and_forgotten_with_the_next_training():
    with signals.handled(), signals.deferred():
        assert signals.requested() == 0
        os.kill(os.getpid(), signal.SIGUSR1)
        assert signals.requested() == signal.SIGUSR1
    with signals.handled():
        assert signals.requested() == 0


def test_what_takes_long_is_interrupted_at_once_even_by_an_earlier_signal():
    with signals.handled(), signals.deferred():
        with pytest.raises(signals.Interrupted), signals.immediate():
            signal.raise_signal(signal.SIGTERM)
        with pytest.raises(signals.Interrupted), signals.immediate():
            pytest.fail("not interrupted")


def test_a_second_signal_leaves_at_once_but_not_the_same_request_twice():
    def body(pause):
        with signals.handled(), signals.deferred():
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(pause)
            os.kill(os.getpid(), signal.SIGINT)
            return 7

    assert in_child(lambda: body(0.0)) == 7
    assert in_child(lambda: body(0.5)) == STATUS[signal.SIGINT]


def test_a_forked_worker_takes_no_notice_of_signals():
    def body():
        for number in STATUS:
            os.kill(os.getpid(), number)
        return 5

    with signals.handled():
        assert in_child(body) == 5


def test_a_forked_worker_ends_when_its_parent_is_killed():
    read, write = os.pipe()

    def parent():
        with signals.handled():
            if os.fork() == 0:  # the worker keeps the pipe open
                time.sleep(60)
                os._exit(0)
            os.kill(os.getpid(), signal.SIGKILL)

    start = time.monotonic()
    assert in_child(parent) == -signal.SIGKILL
    os.close(write)
    assert os.read(read, 1) == b""  # the end of the pipe: nobody holds it
    assert time.monotonic() - start < 30  # the worker would have slept for a minute
    os.close(read)
