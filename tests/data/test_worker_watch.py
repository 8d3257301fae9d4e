"""Workers of a loader that die."""

import os
import signal

import pytest
import torch
from torch.utils.data import DataLoader

from lite_focus_detr.data import DataError
from lite_focus_detr.data.worker_watch import dead_workers_named, note_image


class Deadly:
    """Three images, the second of which ends who reads it."""

    def __len__(self):
        return 3

    def __getitem__(self, index):
        note_image(f"image_{index}.png")
        if index == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return index


def test_the_image_that_a_dead_worker_was_reading_is_named():
    loader = DataLoader(Deadly(), num_workers=1, batch_size=None)
    with pytest.raises(DataError) as raised, dead_workers_named():
        list(loader)
    message = str(raised.value)
    assert "died while it read image_1.png (process " in message
    assert "lower DATALOADER.NUM_WORKERS" in message
    assert "\n" not in message


@pytest.mark.parametrize("error", [RuntimeError("CUDA error"), DataError("a.png"), KeyError("x")])
def test_other_errors_are_left_alone(error):
    with pytest.raises(type(error)) as raised, dead_workers_named():
        raise error
    assert raised.value is error


def test_a_connection_that_a_dying_worker_has_lost_is_explained_by_its_death(monkeypatch):
    answers = [None, RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. ")]

    def fail_if_dead():
        if answer := answers.pop(0):
            raise answer

    monkeypatch.setattr(torch._C, "_error_if_any_worker_fails", fail_if_dead)
    died = r"a process that loads data died \(process 7 is killed"
    with pytest.raises(DataError, match=died), dead_workers_named():
        raise ConnectionResetError
    assert answers == []


def test_a_connection_that_no_worker_has_lost_stays_an_error():
    with pytest.raises(ConnectionResetError), dead_workers_named():
        raise ConnectionResetError
