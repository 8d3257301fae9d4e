"""Errors of data, from this process and from the workers of a loader."""

import pytest
from torch.utils.data import DataLoader

from lite_focus_detr.data import DataError, UnreadableImage


class Broken:
    """A data set whose sample cannot be read."""

    def __init__(self, error):
        self.error = error

    def __len__(self):
        return 1

    def __getitem__(self, index):
        try:
            raise type(self.error)("it is empty")
        except type(self.error) as cause:
            raise self.error from cause


@pytest.mark.parametrize("error", [DataError, UnreadableImage])
@pytest.mark.parametrize("workers", [0, 1])
def test_a_worker_gives_the_same_line_as_this_process(error, workers):
    loader = DataLoader(Broken(error("cannot read a.png: it is empty")), num_workers=workers)
    with pytest.raises(error) as raised:
        next(iter(loader))
    assert str(raised.value) == "cannot read a.png: it is empty"


def test_a_message_that_names_an_error_is_kept():
    assert str(DataError("see DataError: of the manual")) == "see DataError: of the manual"
