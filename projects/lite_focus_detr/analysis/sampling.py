"""What deformable attention samples, and with which weights."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..modeling import DetectionTransformer
from ..modeling.attention import SampledAttention
from ..modeling.structures import ProjectedTokens, SpatialShapes


class AttentionCall(NamedTuple):
    """Arguments of one run of an attention module, see ``SampledAttention.forward``."""

    query: Tensor
    reference_points: Tensor
    value: Tensor | ProjectedTokens
    spatial_shapes: SpatialShapes
    padding_mask: Tensor | None = None


class Samples(NamedTuple):
    """Samples of N queries of one image, in coordinates (x, y) of the un-padded image."""

    queries: Tensor  #: (N, 2) reference points, in [0, 1]
    locations: Tensor  #: (N, M, L, P, 2)
    weights: Tensor  #: (N, M, L, P), for each head they sum to one


def find_attention(model: DetectionTransformer, part: str, layer: int) -> SampledAttention:
    """The attention over the feature levels in a layer of the ``encoder`` or the ``decoder``.

    Raises:
        ValueError: there is no such layer.
    """
    layers = find_attentions(model, part)
    if not -len(layers) <= layer < len(layers):
        raise ValueError(f"--layer {layer}: the {part} has {len(layers)} layers, 0 is the first")
    return layers[layer]


def attention_name(model: DetectionTransformer, part: str, layer: int) -> str:
    """Name of such a layer, such as ``encoder layer 6 of 6``."""
    count = len(find_attentions(model, part))
    return f"{part} layer {layer % count + 1} of {count}"


def find_attentions(model: DetectionTransformer, part: str) -> list[SampledAttention]:
    """The attention over the feature levels in each layer of the ``encoder`` or the ``decoder``."""
    return [x for x in getattr(model, part).modules() if isinstance(x, SampledAttention)]


@contextmanager
def record_calls(attention: SampledAttention) -> Iterator[list[AttentionCall]]:
    """Record what ``attention`` is called with inside the block.

    An encoder may update its tokens in several calls, a batch is one call.
    """
    calls: list[AttentionCall] = []

    def record(module: nn.Module, arguments: tuple[Any, ...], options: dict[str, Any]) -> None:
        calls.append(AttentionCall(*arguments, **options))

    # A hook, because any encoder calls its attention where it likes.
    hook = attention.register_forward_pre_hook(record, with_kwargs=True)
    try:
        yield calls
    finally:
        hook.remove()


def reference_points(calls: Sequence[AttentionCall], valid_ratios: Tensor) -> Tensor:
    """References (N, 2) of all queries of the first image in some calls, as (x, y) in [0, 1].

    Args:
        calls: of one forward pass.
        valid_ratios: (L, 2) un-padded share of the first image on each level.
    """
    references = torch.cat([call.reference_points[0, :, 0, :2] for call in calls])
    return references / valid_ratios[0]


def nearest_samples(
    attention: SampledAttention,
    calls: Sequence[AttentionCall],
    points: Tensor,
    valid_ratios: Tensor,
) -> Samples:
    """Samples of those queries of the first image whose references are nearest to given points.

    Args:
        attention: the module that was recorded.
        calls: of one forward pass.
        points: (N, 2) in coordinates (x, y) of the un-padded image, in [0, 1].
        valid_ratios: (L, 2) un-padded share of the first image on each level.

    Returns:
        One query per point.
    """
    references = reference_points(calls, valid_ratios)
    nearest = torch.cdist(points.to(references), references).argmin(1)
    return query_samples(attention, calls, nearest, valid_ratios)


def query_samples(
    attention: SampledAttention,
    calls: Sequence[AttentionCall],
    queries: Tensor,
    valid_ratios: Tensor,
) -> Samples:
    """Samples of chosen queries of the first image; see :func:`nearest_samples`.

    Args:
        attention: the module that was recorded.
        calls: of one forward pass.
        queries: (N,) numbers of queries, counted through all calls.
        valid_ratios: (L, 2) un-padded share of the first image on each level.
    """
    locations = torch.empty(len(queries), 0)
    weights = torch.empty(len(queries), 0)
    start = 0
    for call in calls:
        stop = start + call.query.shape[1]
        members = (queries >= start) & (queries < stop)
        if members.any():
            found = attention.sampling(*_select_queries(call, queries[members] - start))
            if not locations.shape[1]:
                locations = found.locations.new_empty(len(queries), *found.locations.shape[2:])
                weights = found.weights.new_empty(len(queries), *found.weights.shape[2:])
            locations[members] = found.locations[0] / valid_ratios[:, None]
            weights[members] = found.weights[0]
        start = stop
    return Samples(reference_points(calls, valid_ratios)[queries], locations, weights)


def _select_queries(call: AttentionCall, indices: Tensor) -> AttentionCall:
    """The call for some queries of the first image."""
    value, mask = call.value, call.padding_mask
    if isinstance(value, Tensor):
        value = value[:1]
    else:
        value = ProjectedTokens(value.value[:1], None if value.key is None else value.key[:1])
    return AttentionCall(
        call.query[:1, indices],
        call.reference_points[:1, indices],
        value,
        call.spatial_shapes,
        None if mask is None else mask[:1],
    )
