"""Inputs for the tests of the operators, and what the operators mean in plain loops."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from lite_focus_detr import ops

LEVELS = ((6, 5), (4, 3), (2, 2), (1, 1))


class Inputs(NamedTuple):
    """Arguments of the operators."""

    shapes: list[tuple[int, int]]
    value: Tensor
    key: Tensor
    query: Tensor
    locations: Tensor
    weights: Tensor
    references: Tensor
    boxes: Tensor
    offsets: Tensor
    logits: Tensor
    grad_output: Tensor

    def to(self, dtype: torch.dtype) -> Inputs:
        """The same inputs, rounded."""
        return Inputs(self.shapes, *(tensor.to(dtype) for tensor in self[1:]))


@pytest.fixture
def make_inputs():
    """Random inputs in float64; many points lie outside of the maps."""

    def make(
        shapes=LEVELS,
        *,
        batch=2,
        queries=7,
        heads=3,
        channels=8,
        points=4,
        same_offsets=False,
        seed=0,
    ):
        generator = torch.Generator().manual_seed(seed)

        def normal(*size):
            return torch.randn(*size, generator=generator, dtype=torch.float64)

        levels = len(shapes)
        tokens = sum(height * width for height, width in shapes)
        per_level = (batch, queries, heads, levels, points)
        stored = (batch, queries, heads, 1 if same_offsets else levels, points)
        return Inputs(
            shapes=list(shapes),
            value=normal(batch, tokens, heads, channels),
            key=normal(batch, tokens, heads, channels),
            query=normal(batch, queries, heads, channels),
            locations=0.5 + 0.4 * normal(*per_level, 2),
            weights=normal(*per_level),
            references=0.5 + 0.3 * normal(batch, queries, levels, 2),
            boxes=(0.5 + 0.3 * normal(batch, queries, levels, 4)).abs(),
            offsets=2 * normal(*stored, 2),
            logits=normal(batch, queries, heads, levels * points),
            grad_output=normal(batch, queries, heads * channels),
        )

    return make


@pytest.fixture
def native():
    """Skip where the native operators are not built."""
    if ops.backend("cpu") != "cpu":
        pytest.skip(f"no native operators: {ops.unavailable_reason('cpu')}")


@pytest.fixture
def golden():
    """Results of the published implementations in float64."""
    # Not at the top: the tests of a GPU need PyTorch and pytest alone.
    np = pytest.importorskip("numpy")
    with np.load(Path(__file__).parents[1] / "golden" / "core_ops.npz") as arrays:
        return {name: torch.from_numpy(arrays[name]) for name in arrays.files}


def sample(level_map: list[list[list[float]]], x: float, y: float) -> list[float]:
    """Bilinear interpolation of an (H, W, D) nested list at pixel (x, y), zero outside."""
    height, width, channels = len(level_map), len(level_map[0]), len(level_map[0][0])
    result = [0.0] * channels
    for row in (math.floor(y), math.floor(y) + 1):
        for column in (math.floor(x), math.floor(x) + 1):
            if 0 <= row < height and 0 <= column < width:
                weight = (1 - abs(x - column)) * (1 - abs(y - row))
                for d in range(channels):
                    result[d] += weight * level_map[row][column][d]
    return result


def touches_a_pixel(height: int, width: int, x: float, y: float) -> bool:
    """Whether some pixel of the map is less than one away in x and in y; never for NaN."""
    columns = any(abs(x - column) < 1 for column in range(width))
    return columns and any(abs(y - row) < 1 for row in range(height))


@pytest.fixture
def plain_loops():
    """The operators as loops over scalars: attention(inputs, locations, weights or key)."""

    def attention(inputs, locations, weights=None, key=None, scale=1.0, mask_outside=False):
        batch, queries, heads = locations.shape[:3]
        sizes = (height * width for height, width in inputs.shapes)
        starts = list(itertools.accumulate(sizes, initial=0))
        output = torch.zeros(batch, queries, heads, inputs.value.shape[-1], dtype=torch.float64)

        def samples_of(maps, b, q, m):
            for level, (height, width) in enumerate(inputs.shapes):
                tokens = maps[b, starts[level] : starts[level + 1], m]
                level_map = tokens.view(height, width, -1).tolist()
                for x, y in locations[b, q, m, level].tolist():
                    yield sample(level_map, x * width - 0.5, y * height - 0.5)

        def softmax(logits, b, q, m):
            points = (
                touches_a_pixel(height, width, x * width - 0.5, y * height - 0.5)
                for level, (height, width) in enumerate(inputs.shapes)
                for x, y in locations[b, q, m, level].tolist()
            )
            shares = [
                math.exp(logit) if inside or not mask_outside else 0.0
                for logit, inside in zip(logits.tolist(), points, strict=True)
            ]
            total = sum(shares) or 1.0
            return torch.tensor([share / total for share in shares], dtype=torch.float64)

        for b in range(batch):
            for q in range(queries):
                for m in range(heads):
                    values = torch.tensor(
                        list(samples_of(inputs.value, b, q, m)), dtype=torch.float64
                    )
                    if weights is not None:
                        attention = weights[b, q, m].flatten()
                    else:
                        keys = torch.tensor(list(samples_of(key, b, q, m)), dtype=torch.float64)
                        attention = softmax(scale * keys @ inputs.query[b, q, m], b, q, m)
                    output[b, q, m] = attention @ values
        return output.flatten(2)

    return attention
