"""Memory that the native operators need beside what they return."""

from functools import partial
from pathlib import Path

import pytest
import torch

# PyTorch imports it, and with it many megabytes, when it first takes a gradient.
import torch.fx.experimental.symbolic_shapes

from lite_focus_detr import ops
from lite_focus_detr.tools.benchmark import peak_memory

pytestmark = pytest.mark.slow

# The tokens of an image of 800 x 1333 pixels, each of which is a query.
SHAPES = ((100, 167), (50, 84), (25, 42), (13, 21))
TOKENS, HEADS, CHANNELS, POINTS = 22_223, 8, 32, 4
KEYS, BACKWARD = ("shared", "separate"), (False, True)


def make_tensors():
    generator = torch.Generator().manual_seed(0)
    features = (1, TOKENS, HEADS, CHANNELS)
    locations = (1, TOKENS, HEADS, len(SHAPES), POINTS, 2)
    return {
        name: torch.rand(size, generator=generator)
        for name, size in {
            "query": features,
            "key": features,
            "value": features,
            "locations": locations,
            "grad_output": (1, TOKENS, HEADS * CHANNELS),
        }.items()
    }


def leaf_names(key):
    return [name for name in ("query", "key", "value", "locations") if name != "key" or key]


def run(tensors, separate, backward):
    """The output and the gradients, or the output alone."""
    leaves = {
        name: tensors[name].detach().requires_grad_(backward) for name in leaf_names(separate)
    }
    output = ops.key_aware_deformable_attention(
        leaves["query"], leaves.get("key"), leaves["value"], SHAPES, leaves["locations"]
    )
    if not backward:
        return [output]
    gradients = torch.autograd.grad(output, list(leaves.values()), tensors["grad_output"])
    return [output, *gradients]


def make_steps():
    tensors = make_tensors()
    return {
        (key, backward): partial(run, tensors, key == "separate", backward)
        for key in KEYS
        for backward in BACKWARD
    }


@pytest.mark.usefixtures("native")
@pytest.mark.skipif(not peak_memory.CLEAR_REFS.exists(), reason="needs Linux")
@pytest.mark.parametrize("threads", [1, 2])
def test_key_aware_attention_needs_little_more_than_its_results(monkeypatch, threads):
    # The other process imports this module.
    monkeypatch.syspath_prepend(Path(__file__).parents[2])
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        peaks = peak_memory.peak_memories(make_steps, "cpu")
    finally:
        torch.set_num_threads(before)
    features = 4 * TOKENS * HEADS * CHANNELS
    locations = 4 * TOKENS * HEADS * len(SHAPES) * POINTS * 2
    extra = {
        (key, backward): peak
        - features
        - backward * (locations + features * (3 if key == "separate" else 2))
        for (key, backward), peak in peaks.items()
    }
    for (key, backward), size in extra.items():
        assert size <= (10e6 if backward else 5e6), (key, backward, extra)


IMAGES, LEVEL, NUM_THREADS = 12, (64, 64), (1, 64)


def run_images(tensors, threads):
    """A backward of multi-scale attention over several images."""
    torch.set_num_threads(threads)
    value, locations, weights = tensors
    output = ops.multi_scale_deformable_attention(value, [LEVEL], locations, weights)
    return torch.autograd.grad(output.sum(), value)


def make_images():
    tokens = LEVEL[0] * LEVEL[1]
    value = torch.ones(IMAGES, tokens, HEADS, CHANNELS, requires_grad=True)
    locations = torch.full((IMAGES, tokens, HEADS, 1, 1, 2), 0.5)
    tensors = value, locations, torch.ones(locations.shape[:-1])
    return {threads: partial(run_images, tensors, threads) for threads in NUM_THREADS}


@pytest.mark.usefixtures("native")
@pytest.mark.skipif(not peak_memory.CLEAR_REFS.exists(), reason="needs Linux")
def test_the_memory_of_a_backward_does_not_grow_with_images_and_threads(monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parents[2])
    peaks = peak_memory.peak_memories(make_images, "cpu")
    head = 4 * LEVEL[0] * LEVEL[1] * CHANNELS
    # Of 16 heads a copy and two sums each, and what threads need. A pair of threads for each head
    # would take twice as much.
    assert peaks[64] - peaks[1] <= 16 * 3 * head + 8e6, peaks
