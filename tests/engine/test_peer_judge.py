import logging
import os
import signal
import socket
import subprocess

import pytest

from lite_focus_detr.engine.peer_judge import PeerJudge, PeerState
from lite_focus_detr.engine.process_info import process_start

TIMEOUT = 100.0


def state(beats=3, **changes):
    """Of a process in the seventh step, that waits for its fiftieth operation with the others."""
    defaults = {"iteration": 7, "doing": "computing", "steps": 7, "collectives": 50}
    return PeerState("node2", 5, "at noon", beats=beats, **{**defaults, **changes})


def verdict(seconds, first=None, last=None, mine=None):
    """What is said of rank 1, by rank 0 which answers, some seconds after another look at it."""
    judge = PeerJudge(TIMEOUT)
    first, mine = first or state(), mine or {}
    assert judge.culprit({0: state(1, **mine), 1: first}, 10.0) is None
    culprit = judge.culprit({0: state(2, **mine), 1: last or first}, 10.0 + seconds)
    return culprit and culprit.text


def test_processes_that_answer_are_not_missing():
    assert verdict(1000.0, last=state(beats=4)) is None
    assert verdict(4.0) is None


def test_a_silent_process_is_named_with_what_it_was_doing():
    assert verdict(29.0) is None
    assert verdict(31.0) == (
        "rank 1 (process 5 on node2) has not answered for 31 s in iteration 7, computing"
    )


def test_one_that_is_paused_may_be_silent_until_the_timeout():
    paused = state(paused=True, doing="evaluating")
    assert verdict(99.0, paused) is None
    text = "has not answered for 101 s in iteration 7, evaluating"
    assert verdict(101.0, paused) == f"rank 1 (process 5 on node2) {text}"


@pytest.mark.parametrize("behind", [{"steps": 6}, {"collectives": 49}])
def test_one_that_answers_but_keeps_the_others_waiting_is_named_after_the_timeout(behind):
    assert verdict(99.0, state(**behind), state(4, **behind)) is None
    text = "keeps the others waiting for 101 s in iteration 7, computing"
    assert verdict(101.0, state(**behind), state(4, **behind)) == (
        f"rank 1 (process 5 on node2) {text}"
    )


@pytest.fixture
def neighbour():
    """A process of this machine."""
    process = subprocess.Popen(["sleep", "60"])
    yield process
    process.kill()
    process.wait()


def patience_with(process, act=lambda: None):
    """Seconds that one of this machine may be silent for after something has happened to it."""
    here = PeerState(socket.gethostname(), process.pid, process_start(process.pid))
    judge = PeerJudge(TIMEOUT)
    judge.meet({0: state(), 1: here})
    act()
    return judge.patience(1, here)


def test_a_process_that_waits_for_the_processor_may_be_silent_but_not_one_that_is_stopped(
    neighbour,
):
    def stop():
        neighbour.send_signal(signal.SIGSTOP)
        os.waitpid(neighbour.pid, os.WUNTRACED)

    def kill():
        neighbour.kill()
        os.waitid(os.P_PID, neighbour.pid, os.WEXITED | os.WNOWAIT)

    assert patience_with(neighbour) == TIMEOUT
    assert patience_with(neighbour, stop) < 10
    assert patience_with(neighbour, kill) < 10


def test_a_process_of_another_machine_with_a_number_of_this_one_is_not_known(neighbour):
    other = PeerState(socket.gethostname(), neighbour.pid, "another start")
    judge = PeerJudge(TIMEOUT)
    judge.meet({1: other})
    assert judge.patience(1, other) == 30


def test_one_that_waits_as_well_or_is_paused_keeps_nobody_waiting():
    assert verdict(1000.0, state(), state(4)) is None
    behind = {"paused": True, "steps": 6}
    assert verdict(1000.0, state(**behind), state(4, **behind)) is None


def test_a_process_finds_itself():
    assert verdict(101.0, state(), state(4), mine={"steps": 6}).startswith("rank 0 (process 5 ")


def test_waiting_begins_when_the_others_have_gone_on():
    judge = PeerJudge(TIMEOUT)
    for beats in range(1000):  # all compile something
        assert judge.culprit({0: state(beats), 1: state(beats)}, float(beats)) is None
    assert judge.culprit({0: state(1001, steps=8), 1: state(1001)}, 1001.0) is None
    assert judge.culprit({0: state(1002, steps=8), 1: state(1002)}, 1100.0) is None
    assert judge.culprit({0: state(1003, steps=8), 1: state(1003)}, 1102.0) is not None


def test_one_that_is_slow_is_in_the_log_once(caplog):
    judge = PeerJudge(TIMEOUT)
    with caplog.at_level(logging.WARNING):
        for beats in range(50):
            assert judge.culprit({0: state(beats, steps=8), 1: state(beats)}, float(beats)) is None
    assert caplog.messages == [
        "rank 1 (process 5 on node2) keeps the others waiting for 11 s in iteration 7, computing; "
        "after 100 s all processes stop"
    ]


def test_the_cause_of_one_that_has_left_is_that_of_all_after_a_while():
    left = state(left=True, cause="rank 1 has stopped with WriteError: full")
    judge = PeerJudge(TIMEOUT)
    assert judge.culprit({0: state(), 1: left}, 1.0) is None
    assert judge.culprit({0: state(4), 1: left}, 2.0) == (1, left.cause)
    # At the end of a training there is none.
    assert verdict(1000.0, state(left=True)) is None


def test_a_process_that_was_stopped_itself_begins_anew():
    judge = PeerJudge(TIMEOUT)
    judge.culprit({0: state(1), 1: state(1)}, 1.0)
    judge.forget()
    assert judge.culprit({0: state(2), 1: state(1)}, 1000.0) is None


def test_states_travel_as_text():
    sent = state(cause="\n\"'", paused=True)
    assert PeerState.from_json(sent.to_json()) == sent
