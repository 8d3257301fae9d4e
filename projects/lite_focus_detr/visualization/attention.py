"""Pictures of what deformable attention samples, and with which weights (Lite DETR, Fig. 5)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from ..modeling.attention import SampledAttention
from ..modeling.structures import ProjectedTokens, SpatialShapes
from .detections import Picture


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
    sizes = [call.query.shape[1] for call in calls]
    references = torch.cat([call.reference_points[0, :, 0, :2] for call in calls])
    references = references / valid_ratios[0]
    nearest = torch.cdist(points.to(references), references).argmin(1)
    all_locations, all_weights = [], []
    for index in nearest.tolist():
        call = 0
        while index >= sizes[call]:
            index -= sizes[call]
            call += 1
        locations, weights = attention.sampling(*_single_query(calls[call], index))
        all_locations.append(locations[0] / valid_ratios[:, None])
        all_weights.append(weights[0])
    return Samples(references[nearest], torch.cat(all_locations), torch.cat(all_weights))


def _single_query(call: AttentionCall, index: int) -> AttentionCall:
    """The call for one query of the first image."""
    value, mask = call.value, call.padding_mask
    if isinstance(value, Tensor):
        value = value[:1]
    else:
        value = ProjectedTokens(value.value[:1], None if value.key is None else value.key[:1])
    return AttentionCall(
        call.query[:1, index : index + 1],
        call.reference_points[:1, index : index + 1],
        value,
        call.spatial_shapes,
        None if mask is None else mask[:1],
    )


def draw_samples(image: Picture, samples: Mapping[str, Samples]) -> Figure:
    """Draw samples on the image: one row for each name, one column for each level.

    Args:
        image: (H, W, 3) in RGB order.
        samples: of different models for the same queries, by the name to show.

    Returns:
        The picture. Crosses are the queries; the area and the colour of a point grow with its
        weight; a title says how much of all weight falls on the level.
    """
    height, width = image.shape[:2]
    num_levels = max(x.weights.shape[2] for x in samples.values())
    aspect = height / width
    figure = Figure(figsize=(4 * num_levels, 4 * aspect * len(samples) + 0.6), dpi=100)
    figure.set_layout_engine("constrained")
    grid = figure.subplots(len(samples), num_levels, squeeze=False)
    for axes, (name, (queries, locations, weights)) in zip(grid, samples.items(), strict=True):
        total = weights.sum((0, 1, 3)) / weights.sum()
        largest = weights.max().item()
        for level in range(weights.shape[2]):
            panel = axes[level]
            panel.imshow(image, extent=(0, 1, 1, 0), aspect=aspect, alpha=0.6)
            x, y = locations[:, :, level].flatten(0, -2).T.numpy(force=True)
            weight = weights[:, :, level].flatten().numpy(force=True)
            panel.scatter(
                x, y, s=4 + 120 * weight / largest, c=weight, cmap="plasma", vmin=0, vmax=largest
            )
            panel.scatter(*queries.T.numpy(force=True), c="lime", marker="+", s=150, linewidths=2)
            panel.set(xlim=(0, 1), ylim=(1, 0), xticks=[], yticks=[])
            panel.set_title(f"{name}, level {level + 1}: {total[level]:.0%}", fontsize=9)
    return figure
