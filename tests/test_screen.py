"""What is on the screen and what is in the log."""

import io
import logging
import sys

import pytest
from detectron2.utils.logger import setup_logger

from lite_focus_detr import screen as module
from lite_focus_detr.screen import is_verbose, prints_in_log, set_up_screen


@pytest.fixture
def start(tmp_path, monkeypatch):
    """Set up a logger as detectron2 does, with the screen logger below it; returns it."""
    monkeypatch.delenv(module.VERBOSE, raising=False)
    logger = logging.getLogger(f"test_screen_{tmp_path.name}")
    monkeypatch.setattr(module, "screen", logger.getChild("screen"))

    def start():
        if not logger.handlers:
            setup_logger(str(tmp_path), name=logger.name)
        set_up_screen([logger.name])
        return logger

    yield start
    logger.handlers.clear()


def test_the_screen_has_its_own_lines_and_warnings_and_the_log_has_all(start, tmp_path, capsys):
    logger = start()
    logger.info("a detail")
    module.screen.info("Schedule: %d epochs", 3)
    logger.warning("something is odd")
    logger.error("something is wrong")
    assert capsys.readouterr().out.splitlines() == [
        "Schedule: 3 epochs",
        "WARNING: something is odd",
        "ERROR: something is wrong",
    ]
    log = (tmp_path / "log.txt").read_text()
    for text in ("a detail", "INFO: Schedule: 3 epochs", "something is odd"):
        assert text in log


def test_the_log_has_no_colours(start, tmp_path):
    start().info("\x1b[32mgreen\x1b[0m and \x1b[38;5;204mpink\x1b[39m")
    assert (tmp_path / "log.txt").read_text().endswith("INFO: green and pink\n")


def test_all_lines_are_shown_where_they_are_asked_for(start, capsys, monkeypatch):
    monkeypatch.setenv(module.VERBOSE, "1")
    start().info("a detail")
    assert "a detail" in capsys.readouterr().out


@pytest.mark.parametrize("verbose", ["0", "1"])
def test_a_second_run_in_the_process_shows_its_lines_once(start, capsys, monkeypatch, verbose):
    monkeypatch.setenv(module.VERBOSE, verbose)
    logger = start()
    logger.addHandler(logging.StreamHandler(sys.stdout))
    start()
    logger.warning("something is odd")
    assert capsys.readouterr().out.count("something is odd") == 1


@pytest.mark.parametrize(
    ("value", "verbose"), [(None, False), ("0", False), ("", False), ("1", True)]
)
def test_the_variable(value, verbose, monkeypatch):
    monkeypatch.delenv(module.VERBOSE, raising=False)
    if value is not None:
        monkeypatch.setenv(module.VERBOSE, value)
    assert is_verbose() is verbose


def test_setting_up_twice_shows_lines_once(start, capsys):
    start()
    start()
    module.screen.info("once")
    assert capsys.readouterr().out == "once\n"


def test_what_libraries_print_is_in_the_log(monkeypatch, caplog, capsys):
    monkeypatch.delenv(module.VERBOSE, raising=False)
    logger = logging.getLogger("test_screen.prints")
    with caplog.at_level(logging.INFO), prints_in_log(logger):
        sys.stdout.write("creating index...\nhalf")
        sys.stdout.write(" a line\n\nDONE\n")
    assert caplog.messages == ["creating index...", "half a line", "DONE"]
    assert capsys.readouterr().out == ""
    monkeypatch.setenv(module.VERBOSE, "1")
    with prints_in_log(logger):
        sys.stdout.write("shown\n")
    assert capsys.readouterr().out == "shown\n"


def test_lines_of_the_screen_are_above_a_progress_bar(start, monkeypatch):
    start()
    stream = io.StringIO()
    monkeypatch.setattr("sys.stdout", stream)
    handler = module.ScreenHandler()
    with module.tqdm(total=2, file=stream, ascii=True) as bar:
        bar.update()
        handler.emit(logging.makeLogRecord({"msg": "a line", "levelno": logging.INFO}))
    assert "\na line\n" in stream.getvalue() or "\ra line\n" in stream.getvalue()
