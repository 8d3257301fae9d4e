import numpy as np
import pytest
import torch
from torch import nn

from lite_focus_detr.analysis.training_memory import (
    BatchShape,
    TrainingMemory,
    measure_training_memory,
    moment_peaks,
)

MB = 1_000_000


def test_the_peak_is_what_is_there_at_once():
    def run():
        first = torch.empty(3 * MB, dtype=torch.uint8)
        second = torch.empty(2 * MB, dtype=torch.uint8)
        del first
        third = torch.empty(4 * MB, dtype=torch.uint8)
        del second, third

    assert moment_peaks(run).tolist() == [6 * MB]


class Scale(nn.Module):
    """Saves its input, and has a gradient of 4 MB."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(MB))

    def forward(self, x):
        return x * self.weight[: x.shape[-1]]


@pytest.fixture(scope="module")
def memory():
    """Of a training whose step keeps 4 bytes for each of 100 values of a pixel, twice."""
    model = nn.Sequential(Scale(), Scale())
    optimizer = torch.optim.AdamW(model.parameters(), foreach=False)

    def step(shape):
        images, height, width = shape
        x = torch.ones(images, height * width, 100)
        model(x).sum().backward()
        optimizer.step()
        optimizer.zero_grad()

    shapes = [BatchShape(1, 200, 200), BatchShape(2, 200, 200), BatchShape(1, 300, 200)]
    return measure_training_memory(model, optimizer, step, shapes, average=True), step


def test_weights_gradients_and_states_are_counted(memory):
    found, _ = memory
    assert (found.weights, found.gradients, found.average) == (8 * MB, 8 * MB, 8 * MB)
    assert found.optimizer == 16 * MB + 2 * 4  # two moments, and two counters of steps
    assert found.fixed == found.weights + found.optimizer + found.average


@pytest.mark.parametrize(
    "shape", [BatchShape(1, 100, 200), BatchShape(5, 180, 190), BatchShape(3, 300, 400)]
)
def test_other_shapes_are_predicted(memory, shape):
    found, step = memory
    measured = moment_peaks(lambda: step(shape)).max()
    assert found.peak(shape) == pytest.approx(found.fixed + measured, rel=0.01)


def test_the_input_and_two_products_are_kept(memory):
    found, _ = memory
    large = BatchShape(1, 2000, 2000)
    # At the least: what both modules multiply.
    assert found.peak(large) - found.fixed >= 2 * 400 * 2000 * 2000


def two_moments():
    """The first has activations and no gradients, the second the other way around."""
    moments = np.array([[10.0, 5.0, 1.0], [50.0, 0.0, 0.0]])
    return TrainingMemory(100, 30, 60, 0, moments, np.array([0.0, 30.0]))


def test_the_largest_moment_depends_on_the_images():
    memory = two_moments()
    assert memory.peak(BatchShape(1, 2, 3)) == 160 + 50 + 30
    assert memory.peak(BatchShape(2, 10, 10)) == 160 + 10 + 2 * (5 + 100)


def test_gradients_of_earlier_batches_are_there_during_later_ones():
    memory = two_moments()
    assert memory.peak(BatchShape(2, 10, 10), 2) == 160 + 10 + 2 * (5 + 100) + 30


@pytest.mark.parametrize(
    ("limit", "images"), [(160 + 10 + 3 * 105, 3), (160 + 10 + 3 * 105 - 1, 2)]
)
def test_as_many_images_fit_as_the_peak_says(limit, images):
    memory = two_moments()
    assert memory.most_images(limit, 10, 10) == images
    assert memory.peak(BatchShape(images, 10, 10)) <= limit
    assert memory.peak(BatchShape(images + 1, 10, 10)) > limit


def test_nothing_fits_where_the_update_does_not():
    assert two_moments().most_images(200, 10, 10) == 0
