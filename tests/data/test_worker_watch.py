"""Workers of a loader that die."""

import os
import signal

import pytest
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
