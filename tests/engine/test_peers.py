import pytest

from lite_focus_detr.engine import peers
from lite_focus_detr.engine.peers import PeerWatch, collective_timeout


class Ended(Exception):
    pass


@pytest.fixture
def watch(monkeypatch):
    """That of the first of three processes; what it reports is in ``said``."""

    def leave(status):
        raise Ended(status)

    monkeypatch.setattr(peers, "leave", leave)
    said = []
    watch = PeerWatch(said.append)
    watch.said, watch.timeout = said, 100.0
    watch.doing("computing", 7)
    return watch


def state(beat, **changes):
    defaults = {"beat": beat, "iteration": 7, "doing": "computing", "steps": 1, "paused": False}
    return {**defaults, "error": None, "left": False, "process": "process 5 on node2", **changes}


def check(watch, seconds, waiting=0.0, **changes):
    """Look at one other process that has given no sign for some seconds."""
    seen = {1: (3, 0.0)}
    watch.check({1: state(3, **changes)}, seen, waiting=waiting, now=seconds)


def test_a_process_that_answers_is_not_missing(watch):
    check(watch, 4.0)
    seen = {1: (3, 0.0)}
    watch.check({1: state(4)}, seen, waiting=0.0, now=1000.0)
    assert seen == {1: (4, 1000.0)}
    assert watch.said == []


def test_a_silent_process_is_named_with_what_it_was_doing(watch):
    with pytest.raises(Ended):
        check(watch, 9.0)
    assert watch.said == [
        "error: rank 1 (process 5 on node2) has not answered for 9 s in iteration 7, computing: "
        "all processes stop. Continue with --resume"
    ]


@pytest.mark.parametrize("changes", [{"paused": True}, {"left": True}])
def test_one_that_evaluates_or_has_left_may_be_silent(watch, changes):
    check(watch, 1000.0, **changes)
    assert watch.said == []


def test_one_that_answers_but_keeps_the_others_waiting_is_named_after_the_timeout(watch):
    check(watch, 1.0, waiting=99.0, steps=0)
    check(watch, 1.0, waiting=101.0, steps=1)  # waits as well
    with pytest.raises(Ended):
        check(watch, 1.0, waiting=101.0, steps=0)
    assert "rank 1 (process 5 on node2) keeps the others waiting for 101 s" in watch.said[0]


def test_one_process_watches_nobody(watch):
    with watch.running():
        watch.finish_together()
    assert watch.said == []


@pytest.mark.parametrize("text", ["0", "-3", "soon", "nan", "inf"])
def test_a_timeout_that_is_no_positive_number_is_refused(monkeypatch, text):
    monkeypatch.setenv("LITE_FOCUS_DETR_TIMEOUT", text)
    with pytest.raises(ValueError, match="set a number of seconds above 0"):
        collective_timeout()


def test_the_timeout_is_half_an_hour_or_what_the_environment_says(monkeypatch):
    monkeypatch.delenv("LITE_FOCUS_DETR_TIMEOUT", raising=False)
    assert collective_timeout().total_seconds() == 1800
    monkeypatch.setenv("LITE_FOCUS_DETR_TIMEOUT", "2.5")
    assert collective_timeout().total_seconds() == 2.5
