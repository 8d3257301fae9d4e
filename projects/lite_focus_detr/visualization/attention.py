"""Pictures of what deformable attention samples, and with which weights (Lite DETR, Fig. 5)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import NamedTuple

import torch
from matplotlib.figure import Figure
from torch import Tensor

from .. import ops
from ..modeling.attention import (
    DeformableAttention,
    KeyAwareAttention,
    Projected,
    SampledAttention,
    SamplePoints,
)
from ..modeling.tokens import FeatureTokens
from .detections import Picture


class AttentionCall(NamedTuple):
    """Arguments of one run of an attention module, see ``SampledAttention.attend``."""

    query: Tensor
    reference_points: Tensor
    projected: Projected
    tokens: FeatureTokens


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
    attend = attention.attend

    def spy(
        query: Tensor, reference_points: Tensor, projected: Projected, tokens: FeatureTokens
    ) -> Tensor:
        calls.append(AttentionCall(query, reference_points, projected, tokens))
        return attend(query, reference_points, projected, tokens)

    attention.attend = spy  # type: ignore[method-assign]
    yield calls
    del attention.attend


def nearest_samples(
    attention: SampledAttention, calls: list[AttentionCall], points: Tensor
) -> Samples:
    """Samples of those queries of the first image whose references are nearest to given points.

    Args:
        attention: the module that was recorded.
        calls: of one forward pass.
        points: (N, 2) in coordinates (x, y) of the un-padded image, in [0, 1].

    Returns:
        One query per point.
    """
    ratios = calls[0].tokens.valid_ratios[:1, 0]
    sizes = [call.query.shape[1] for call in calls]
    references = torch.cat([call.reference_points[0, :, 0, :2] for call in calls]) / ratios
    nearest = torch.cdist(points.to(references), references).argmin(1)
    chosen = []
    for index in nearest.tolist():
        call = 0
        while index >= sizes[call]:
            index -= sizes[call]
            call += 1
        chosen.append(_samples(attention, calls[call], index))
    return Samples(*map(torch.cat, zip(*chosen, strict=True)))


def _samples(attention: SampledAttention, call: AttentionCall, index: int) -> Samples:
    query, references = (x[:1, index : index + 1] for x in call[:2])
    value, key = call.projected
    projected = Projected(value[:1], None if key is None else key[:1])
    points = attention.points(query, references, call.tokens)
    locations = ops.reference.sampling_locations(*points)
    weights = attention_weights(attention, query, projected, points)
    ratios = call.tokens.valid_ratios[0]
    return Samples(
        references[0, :, 0, :2] / ratios[0],
        locations[0] / ratios[:, None],
        weights[0].view(locations.shape[1:-1]),
    )


def attention_weights(
    attention: SampledAttention, query: Tensor, projected: Projected, points: SamplePoints
) -> Tensor:
    """Weights (B, Q, M, L * P) that an attention module gives to its samples.

    Args:
        attention: of any kind.
        query: (B, Q, C), position included.
        projected: the tokens that it samples.
        points: where.
    """
    if not isinstance(attention, KeyAwareAttention):
        assert isinstance(attention, DeformableAttention)
        logits = attention.attention_weights(query).unflatten(-1, (attention.num_heads, -1))
        return logits.softmax(-1)
    heads = attention.query_proj(query).unflatten(-1, (attention.num_heads, -1))
    keys = projected.value if projected.key is None else projected.key
    sampled = sample_keys(keys, points)
    return (torch.einsum("bqmd,bqmpd->bqmp", heads, sampled) * heads.shape[-1] ** -0.5).softmax(-1)


def sample_keys(keys: Tensor, points: SamplePoints) -> Tensor:
    """Keys (B, S, M, D) interpolated at every point, (B, Q, M, L * P, D)."""
    locations = ops.reference.sampling_locations(*points)  # (B, Q, M, L, P, 2)
    sizes = [height * width for height, width in points.spatial_shapes]
    levels = []
    for level, tokens in enumerate(torch.split(keys, sizes, 1)):
        # A point whose only sample has the weight one attends to exactly that sample.
        single = locations[:, :, :, level].transpose(2, 3)  # (B, Q, P, M, 2)
        single = single.flatten(1, 2)[:, :, :, None, None]
        sampled = ops.multi_scale_deformable_attention(
            tokens.contiguous(),
            [points.spatial_shapes[level]],
            single,
            torch.ones_like(single[..., 0]),
        )
        shape = (*locations.shape[:2], locations.shape[4], keys.shape[2], -1)
        levels.append(sampled.view(shape).transpose(2, 3))
    return torch.cat(levels, 3)


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
