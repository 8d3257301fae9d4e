import logging

import pytest
from detectron2.utils.events import EventStorage, TensorboardXWriter

from lite_focus_detr.engine.log_writers import TensorboardFile, keep_logging

FULL = OSError(28, "No space left on device")


@pytest.fixture(autouse=True)
def captured_logs(monkeypatch):
    monkeypatch.setattr(logging.getLogger("lite_focus_detr"), "propagate", True)


def fail(*arguments):
    raise FULL


@pytest.mark.fault(area="training", expected="survived")
@pytest.mark.parametrize("step", ["write", "close"])
def test_a_tensorboard_file_that_cannot_be_written_is_given_up_with_one_line(
    tmp_path, monkeypatch, caplog, step
):
    writer, calls = TensorboardFile(str(tmp_path)), []
    monkeypatch.setattr(TensorboardXWriter, step, lambda self: calls.append(step) or fail())
    with EventStorage():
        writer.write()
        if step == "close":
            writer.close()
        writer.write()
        writer.close()
    assert calls == [step]
    (message,) = caplog.messages
    assert message.startswith("Cannot write TensorBoard's file ([Errno 28] No space left")
    assert "metrics.json has its values" in message


def test_pictures_do_not_pile_up_where_they_cannot_be_written(tmp_path, monkeypatch):
    writer = TensorboardFile(str(tmp_path))
    monkeypatch.setattr(TensorboardXWriter, "write", lambda self: fail())
    with EventStorage() as storage:
        writer.write()
        monkeypatch.setattr(storage, "clear_images", lambda: cleared.append(True))
        cleared = []
        writer.write()
    assert cleared == [True]


def test_scalars_are_in_the_file_of_tensorboard(tmp_path):
    writer = TensorboardFile(str(tmp_path))
    with EventStorage() as storage:
        storage.put_scalar("total_loss", 1.5)
        writer.write()
    writer.close()
    (file,) = tmp_path.iterdir()
    assert b"total_loss" in file.read_bytes()


@pytest.mark.fault(area="training", expected="survived")
def test_a_log_that_cannot_be_written_is_said_once(tmp_path, capsys):
    logger = logging.getLogger("test_log_writers")
    handler = logging.StreamHandler(open("/dev/full", "w"))  # noqa: SIM115
    logger.addHandler(handler)
    logger.propagate = False
    keep_logging(["test_log_writers"])
    for number in range(3):
        logger.warning("line %d", number)
    logger.removeHandler(handler)
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        "warning: cannot write the log ([Errno 28] No space left on device): the run goes on "
        "without it"
    ]
