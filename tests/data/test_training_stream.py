import random
from itertools import islice

import numpy as np
import pytest
import torch
from detectron2.data import build_detection_train_loader
from detectron2.data.common import AspectRatioGroupedDataset

from lite_focus_detr.data.epoch_order import EpochOrder
from lite_focus_detr.data.training_stream import BatchLayout, TrainingStream

NUM_IMAGES = 23


def records(number=NUM_IMAGES):
    """A third of them is wide."""
    return [
        {"id": i, "width": 64 if i % 3 == 0 else 48, "height": 48 if i % 3 == 0 else 64}
        for i in range(number)
    ]


def augment(record):
    numbers = (random.random(), np.random.rand(), torch.rand(()).item())
    return {**record, "numbers": numbers}


def make_stream(layout, rank=0, seed=5, mapper=augment, number=NUM_IMAGES):
    order = EpochOrder(number, seed=seed)
    return TrainingStream(records(number), mapper, order=order, layout=layout, rank=rank)


def batches(stream, number):
    """As detectron2's own grouping makes them."""
    size = stream.layout.batch_size
    if stream.layout.grouped:
        return list(islice(AspectRatioGroupedDataset(stream, size), number))
    samples = iter(stream)
    return [list(islice(samples, size)) for _ in range(number)]


LAYOUTS = [
    BatchLayout(batch, world, grouped)
    for batch in (1, 2, 5)
    for world in (1, 2, 3)
    for grouped in (False, True)
]


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
@pytest.mark.parametrize("taken", [1, 4, 17])
def test_a_resumed_stream_gives_the_batches_that_would_have_followed(layout, taken):
    for rank in range(layout.world_size):
        expected = batches(make_stream(layout, rank), taken + 12)
        resumed = make_stream(layout, rank, seed=99)
        state = make_stream(layout, rank).state_dict(taken)
        assert resumed.load_state_dict(state) == []
        assert batches(resumed, 12) == expected[taken:]
        # ... and so does one that is resumed again.
        again = make_stream(layout, rank)
        assert again.load_state_dict(resumed.state_dict(taken + 5)) == []
        assert batches(again, 7) == expected[taken + 5 :]


@pytest.mark.parametrize("grouped", [False, True])
def test_the_number_of_loader_workers_changes_nothing(grouped):
    layout = BatchLayout(3, grouped=grouped)
    found = []
    for workers in (0, 1, 2, 3):
        stream = make_stream(layout)
        stream.load_state_dict(make_stream(layout).state_dict(2))
        loader = build_detection_train_loader(
            stream,
            mapper=None,
            total_batch_size=3,
            aspect_ratio_grouping=grouped,
            num_workers=workers,
        )
        found.append(list(islice(loader, 10)))
    assert found[0] == batches(make_stream(layout), 12)[2:]
    assert found[1:] == found[:1] * 3


def test_the_augmentation_differs_between_epochs_and_images_and_leaves_no_trace():
    torch.manual_seed(0)
    expected = torch.rand(()).item()
    torch.manual_seed(0)
    stream = make_stream(BatchLayout(1))
    samples = list(islice(stream, 3 * NUM_IMAGES))
    assert len({sample["numbers"] for sample in samples}) == 3 * NUM_IMAGES
    assert torch.rand(()).item() == expected


@pytest.mark.parametrize("old", LAYOUTS[1::3], ids=str)
@pytest.mark.parametrize("new", LAYOUTS[::5], ids=str)
def test_with_another_layout_no_image_is_lost_or_repeated(old, new):
    number, seen, state = 200, [], None

    def streams(layout):
        for rank in range(layout.world_size):
            stream = make_stream(layout, rank, number=number)
            if state is not None:
                changes = stream.load_state_dict(state)
                assert (changes == []) == (state["layout"] == vars(layout))
            yield stream

    for layout in (old, new, old):
        taking = list(streams(layout))
        seen += [s["id"] for stream in taking for batch in batches(stream, 3) for s in batch]
        state = taking[0].state_dict(taking[0].taken + 3)
    (rest,) = streams(BatchLayout(1))
    seen += [s["id"] for batch in batches(rest, number - len(seen)) for s in batch]
    assert sorted(seen) == list(range(number))


def test_another_data_set_passes_over_as_many_images():
    stream = make_stream(BatchLayout(2), number=40)
    differences = stream.load_state_dict(make_stream(BatchLayout(2)).state_dict(3))
    assert differences == ["images 23 to 40"]
    expected = EpochOrder(40, seed=5)(np.arange(6, 10)).tolist()
    assert [sample["id"] for sample in islice(stream, 4)] == expected


def test_an_image_that_is_left_out_is_replaced_by_one_of_its_orientation():
    def leave_out(record):
        return None if record["id"] in (3, 4) else record

    layout = BatchLayout(2, grouped=True)
    whole = list(islice(make_stream(layout, mapper=lambda record: record), 2 * NUM_IMAGES))
    mended = list(islice(make_stream(layout, mapper=leave_out), 2 * NUM_IMAGES))
    for expected, actual in zip(whole, mended, strict=True):
        assert (actual == expected) == (expected["id"] not in (3, 4))
        assert actual["id"] not in (3, 4)
        assert actual["width"] == expected["width"]


def test_when_no_image_can_be_used_this_is_said():
    stream = make_stream(BatchLayout(1), mapper=lambda record: None)
    with pytest.raises(RuntimeError, match=r"1000 images of DATASETS.TRAIN in a row"):
        next(iter(stream))


def test_grouping_needs_sizes_and_says_so():
    order = EpochOrder(1, seed=0)
    with pytest.raises(ValueError, match=r"no width, which DATALOADER.ASPECT_RATIO_GROUPING needs"):
        TrainingStream([{"height": 3}], augment, order=order, layout=BatchLayout(1, grouped=True))
    stream = TrainingStream([{"height": 3}], augment, order=order, layout=BatchLayout(1))
    assert next(iter(stream))["height"] == 3
