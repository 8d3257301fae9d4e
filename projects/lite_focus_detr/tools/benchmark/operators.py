"""The operators and the formulations that others use, as contenders of a benchmark.

Levels of an image of 800x1333 pixels, queries of the encoder (all tokens), of Lite DETR's high
levels and of the decoder. The formulations are those of grid_sample and, where they are installed,
the packages torch-ms-deform-attn and transformers.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ... import ops
from .measure import Measurement, ratio_cells
from .peak_memory import Workload

# A ResNet-50 at 800 x 1333 pixels.
SHAPES = ((100, 167), (50, 84), (25, 42), (13, 21))
HEADS, CHANNELS, POINTS = 8, 32, 4
QUERIES = {
    "encoder": sum(height * width for height, width in SHAPES),
    "high-levels": sum(height * width for height, width in SHAPES[1:]),
    "decoder": 900,
}


class Inputs(NamedTuple):
    """Arguments of the operators, batch 1."""

    value: Tensor
    key: Tensor
    query: Tensor
    locations: Tensor
    weights: Tensor
    references: Tensor
    offsets: Tensor
    logits: Tensor


class Case(NamedTuple):
    """Functions that compute the same, and the tensors that they take."""

    name: str
    contenders: dict[str, Callable[..., Tensor]]
    tensors: tuple[Tensor, ...]
    backward: bool


def make_inputs(queries: int, device: torch.device, dtype: torch.dtype, seed: int = 0) -> Inputs:
    """Points as a trained model has them: a few pixels around the reference of their query."""
    generator = torch.Generator().manual_seed(seed)
    levels = len(SHAPES)
    tokens = QUERIES["encoder"]
    sizes = torch.tensor([(width, height) for height, width in SHAPES])
    centres = (
        _pixel_centres()[-queries:]
        if queries > 900
        else torch.rand(queries, 2, generator=generator)
    )
    angles = torch.arange(HEADS) * (2 * torch.pi / HEADS)
    directions = torch.stack((angles.cos(), angles.sin()), -1)[:, None, None]
    steps = directions * torch.arange(1, POINTS + 1)[:, None]
    noise = torch.randn(1, queries, HEADS, levels, POINTS, 2, generator=generator)
    offsets = steps + 1.5 * noise
    references = centres[None, :, None].expand(1, queries, levels, 2).contiguous()
    logits = torch.randn(1, queries, HEADS, levels * POINTS, generator=generator)

    def features(rows: int) -> Tensor:
        return torch.randn(1, rows, HEADS, CHANNELS, generator=generator).to(device, dtype)

    return Inputs(
        value=features(tokens),
        key=features(tokens),
        query=features(queries),
        locations=(references[:, :, None, :, None] + offsets / sizes[:, None]).to(device),
        weights=logits.softmax(-1).view(offsets.shape[:-1]).to(device),
        references=references.to(device),
        offsets=offsets.to(device),
        logits=logits.to(device),
    )


def _pixel_centres() -> Tensor:
    centres = []
    for height, width in SHAPES:
        y, x = torch.meshgrid(
            (torch.arange(height) + 0.5) / height,
            (torch.arange(width) + 0.5) / width,
            indexing="ij",
        )
        centres.append(torch.stack((x, y), -1).flatten(0, 1))
    return torch.cat(centres)


def grid_sample_points(value: Tensor, locations: Tensor) -> Tensor:
    """Every sampled value at once, (B * M, D, Q, L * P), as the published fallbacks do it."""
    batch, _, heads, channels = value.shape
    samples = []
    levels = torch.split(value, [height * width for height, width in SHAPES], dim=1)
    for level, (height, width) in enumerate(SHAPES):
        maps = levels[level].flatten(2).transpose(1, 2)
        maps = maps.reshape(batch * heads, channels, height, width)
        grid = (2 * locations[:, :, :, level] - 1).transpose(1, 2).flatten(0, 1)
        samples.append(F.grid_sample(maps, grid, align_corners=False))
    return torch.stack(samples, dim=-2).flatten(-2)


def grid_sample_attention(value: Tensor, locations: Tensor, weights: Tensor) -> Tensor:
    """Multi-scale deformable attention of the published fallbacks, (B, Q, M * D)."""
    batch, queries, heads = locations.shape[:3]
    weights = weights.transpose(1, 2).reshape(batch * heads, 1, queries, -1)
    output = (grid_sample_points(value, locations) * weights).sum(-1)
    return output.view(batch, -1, queries).transpose(1, 2)


def grid_sample_pipeline(
    value: Tensor, references: Tensor, offsets: Tensor, logits: Tensor
) -> Tensor:
    """The same from references, offsets and logits."""
    locations = ops.reference.sampling_locations(SHAPES, references, offsets)
    return grid_sample_attention(value, locations, logits.softmax(-1).view(offsets.shape[:-1]))


def grid_sample_key_aware(query: Tensor, key: Tensor, value: Tensor, locations: Tensor) -> Tensor:
    """Key-aware attention that samples keys and values one after the other, (B, Q, M * D)."""
    batch, queries, heads = locations.shape[:3]
    keys = grid_sample_points(key, locations)
    values = grid_sample_points(value, locations)
    rows = query.permute(0, 2, 3, 1).reshape(batch * heads, -1, queries, 1)
    weights = ((rows * keys).sum(1, keepdim=True) * CHANNELS**-0.5).softmax(-1)
    output = (weights * values).sum(-1)
    return output.view(batch, -1, queries).transpose(1, 2)


def _peers(device: torch.device) -> dict[str, Callable[..., Tensor]]:
    """Multi-scale attention of other packages, where they are installed."""
    sizes = torch.tensor(SHAPES, device=device)
    starts = torch.cat((sizes.new_zeros(1), sizes.prod(1).cumsum(0)[:-1]))
    peers: dict[str, Callable[..., Tensor]] = {}
    with suppress(ImportError):
        published = importlib.import_module("torch_ms_deform_attn").ms_deform_attn
        peers["torch-ms-deform-attn"] = lambda value, locations, weights: published(
            value, sizes, starts, locations, weights
        )
    # Old releases of transformers have no such module.
    with suppress(ImportError, AttributeError):
        models = "transformers.models.deformable_detr.modeling_deformable_detr"
        module = importlib.import_module(models).MultiScaleDeformableAttention()
        peers["transformers"] = lambda value, locations, weights: module(
            value, sizes, SHAPES, starts, locations, weights, 64
        )
    return peers


def _in_single_precision(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """What autocast does to grid_sample and to the peers, which would round the locations."""

    def run(*tensors: Tensor) -> Tensor:
        return function(*(tensor.float() for tensor in tensors)).to(tensors[0].dtype)

    return run


def make_cases(inputs: Inputs, device: torch.device) -> Iterator[Case]:
    """Every operator, forward alone and with its gradients."""
    value, key, query, locations, weights, references, offsets, logits = inputs
    plain = {
        "native": lambda v, x, a: ops.multi_scale_deformable_attention(v, SHAPES, x, a),
        **_peers(device),
        "grid_sample": grid_sample_attention,
    }
    fused = {
        "native": lambda v, r, x, a: ops.fused_deformable_attention(v, SHAPES, r, x, a),
        "grid_sample": grid_sample_pipeline,
    }
    shared = {
        "native": lambda q, v, x: ops.key_aware_deformable_attention(q, None, v, SHAPES, x),
        "grid_sample": lambda q, v, x: grid_sample_key_aware(q, v, v, x),
    }
    separate = {
        "native": lambda q, k, v, x: ops.key_aware_deformable_attention(q, k, v, SHAPES, x),
        "grid_sample": grid_sample_key_aware,
    }
    for contenders in (plain, fused, shared, separate):
        for name in contenders.keys() - {"native"}:
            contenders[name] = _in_single_precision(contenders[name])
    for backward in (False, True):
        yield Case("multi-scale", plain, (value, locations, weights), backward)
        yield Case("fused", fused, (value, references, offsets, logits), backward)
        yield Case("key-aware, key = value", shared, (query, value, locations), backward)
        yield Case("key-aware", separate, (query, key, value, locations), backward)


def _run(function: Callable[..., Tensor], case: Case) -> None:
    if not case.backward:
        with torch.no_grad():
            function(*case.tensors)
        return
    # The references of an encoder are constants.
    leaves = [
        tensor.detach().requires_grad_(index != 1 or case.name != "fused")
        for index, tensor in enumerate(case.tensors)
    ]
    output = function(*leaves)
    torch.autograd.backward(output, torch.ones_like(output))


def make_workloads(queries: int, device: str, dtype: str) -> dict[tuple[str, str], Workload]:
    """Functions that run a contender of a case once, by the names of both."""
    inputs = make_inputs(queries, torch.device(device), getattr(torch, dtype))
    return {
        (f"{case.name}{', gradients' if case.backward else ''}", name): partial(
            _run, function, case
        )
        for case in make_cases(inputs, torch.device(device))
        for name, function in case.contenders.items()
    }


def table(results: Mapping[tuple[str, str], Measurement]) -> list[list[object]]:
    """A row per contender of a case; ratios are to the native operator."""
    return [
        [case, name, *ratio_cells(result, results[case, "native"])]
        for (case, name), result in results.items()
    ]
