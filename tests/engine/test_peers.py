import pytest

from lite_focus_detr.engine.peers import PeerWatch, collective_timeout, peer_timeout


def test_one_process_watches_nobody():
    said = []
    watch = PeerWatch(said.append)
    with watch.running(), watch.paused("evaluating"):
        watch.doing("computing", 3)
        watch.finish_together()
    assert said == []


@pytest.mark.parametrize("text", ["0", "-3", "soon", "nan", "inf"])
def test_a_timeout_that_is_no_positive_number_is_refused(monkeypatch, text):
    monkeypatch.setenv("LITE_FOCUS_DETR_TIMEOUT", text)
    with pytest.raises(ValueError, match="set a number of seconds above 0"):
        peer_timeout()


def test_the_timeout_is_half_an_hour_or_what_the_environment_says(monkeypatch):
    monkeypatch.delenv("LITE_FOCUS_DETR_TIMEOUT", raising=False)
    assert peer_timeout().total_seconds() == 1800
    monkeypatch.setenv("LITE_FOCUS_DETR_TIMEOUT", "2.5")
    assert peer_timeout().total_seconds() == 2.5


@pytest.mark.parametrize(("text", "seconds"), [("2.5", 1860), ("1800", 1860), ("7200", 7260)])
def test_collectives_wait_longer_than_the_watch_that_names_a_process(monkeypatch, text, seconds):
    monkeypatch.setenv("LITE_FOCUS_DETR_TIMEOUT", text)
    assert collective_timeout().total_seconds() == seconds
