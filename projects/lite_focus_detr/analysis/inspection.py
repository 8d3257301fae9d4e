"""What a detector does with one image: what it finds, keeps and samples, and how long it takes."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from detectron2.modeling.postprocessing import detector_postprocess
from detectron2.structures import Instances
from torch import Tensor

from ..modeling import DetectionTransformer, DetectorOutputs
from ..modeling.attention import KeyAwareAttention
from ..modeling.structures import FeatureTokens, SpatialShapes
from .latency import part_seconds
from .sampling import (
    AttentionCall,
    Samples,
    find_attentions,
    query_samples,
    record_calls,
    reference_points,
)
from .token_selection import kept_tokens

#: States of a token in an encoder layer; an object token is kept and attends twice.
DROPPED, KEPT, OBJECT = 0, 1, 2


@dataclasses.dataclass(frozen=True)
class Inspection:
    """What a detector has done with one image of S tokens. E encoder layers.

    Args:
        name: of the detector.
        detections: in pixels of the image, best first.
        seconds: median times of its parts and the ``total``.
        spatial_shapes: (rows, columns) of tokens of each level.
        strides: pixels of the resized image per token of each level.
        resized: (height, width) that the detector has seen.
        layers: (E, S) int8, ``DROPPED``, ``KEPT`` or ``OBJECT``.
        samples: of the last ``encoder`` layer for tokens all over the image, and of the last
            ``decoder`` layer for the best queries.
    """

    name: str
    detections: Instances
    seconds: dict[str, float]
    spatial_shapes: SpatialShapes
    strides: tuple[int, ...]
    resized: tuple[int, int]
    layers: Tensor
    samples: dict[str, Samples]


@torch.inference_mode()
def inspect_image(
    model: DetectionTransformer,
    inputs: Mapping[str, Any],
    *,
    rounds: int = 3,
    num_tokens: int = 500,
    num_queries: int = 100,
) -> Inspection:
    """Run a detector on one image, several times, and note what it does.

    Args:
        model: in evaluation mode.
        inputs: as for the detector, with ``image``, ``height`` and ``width``.
        rounds: timed runs, at least 1; the times are their medians.
        num_tokens: at most so many tokens whose samples are noted.
        num_queries: at most so many queries of the decoder.
    """
    seconds = part_seconds(model, lambda: model([inputs]), rounds)
    attentions = find_attentions(model, "encoder")
    last = find_attentions(model, "decoder")[-1]
    images = model.preprocess_image([inputs])
    with ExitStack() as stack:
        calls = [stack.enter_context(record_calls(x)) for x in attentions]
        decoder_calls = stack.enter_context(record_calls(last))
        outputs = model.forward_outputs(images)
    found = model.select_detections(outputs, images)[0]
    detections = detector_postprocess(found, inputs["height"], inputs["width"]).to("cpu")
    tokens = outputs.tokens
    ratios = tokens.valid_ratios[0]
    chosen = _spread_queries(reference_points(calls[-1], ratios), num_tokens)
    best = outputs.pred_logits[0].amax(-1)
    best = best.topk(min(num_queries, len(best))).indices
    return Inspection(
        name=detector_name(model),
        detections=detections[detections.scores.argsort(descending=True, stable=True)],
        seconds=seconds,
        spatial_shapes=tokens.spatial_shapes,
        strides=tokens.strides,
        resized=tokens.image_sizes[0],
        layers=_token_states(outputs, calls),
        samples={
            "encoder": query_samples(attentions[-1], calls[-1], chosen, ratios),
            "decoder": query_samples(last, decoder_calls, best, ratios),
        },
    )


def detector_name(model: DetectionTransformer) -> str:
    """Architecture of a detector and what its encoder does, such as ``FocusDETR, keep ratio 0.3``.

    The keep ratio is the mean over layers or blocks.
    """
    parts = [type(model).__name__]
    if any(isinstance(module, KeyAwareAttention) for module in model.encoder.modules()):
        parts.append("key-aware")
    ratios = model.encoder.keep_ratios
    if ratios:
        parts.append(f"keep ratio {sum(ratios) / len(ratios):.2g}")
    return ", ".join(parts)


def _spread_queries(references: Tensor, count: int) -> Tensor:
    """At most ``count`` of the queries at references (N, 2): those nearest to points of a grid."""
    side = max(1, int(count**0.5))
    ticks = (torch.arange(side, device=references.device) + 0.5) / side
    nearest = torch.cdist(torch.cartesian_prod(ticks, ticks), references).argmin(1)
    return torch.tensor(sorted(set(nearest.tolist())), device=references.device)


def _token_states(outputs: DetectorOutputs, calls: Sequence[Sequence[AttentionCall]]) -> Tensor:
    """States (E, S) of the tokens in the layers that made these calls."""
    trace, tokens = outputs.encoder.trace, outputs.tokens
    if trace is not None:
        kept, objects = kept_tokens(trace)
        return kept.to(torch.int8) + (kept & objects).to(torch.int8) * (OBJECT - KEPT)
    layers = [_updated_levels(tokens, layer) for layer in calls]
    return torch.stack(layers).to(torch.int8) * KEPT


def _updated_levels(tokens: FeatureTokens, calls: Sequence[AttentionCall]) -> Tensor:
    """Which tokens (S,) are queries of some calls, each of them of neighbouring levels."""
    updated = torch.zeros(tokens.centers.shape[1], dtype=torch.bool)
    ends = [0, *torch.tensor([h * w for h, w in tokens.spatial_shapes]).cumsum(0).tolist()]
    for call in calls:
        references = reference_points([call], tokens.valid_ratios[0])
        for start in ends:
            centers = tokens.centers[0, start : start + len(references)]
            if centers.shape == references.shape and torch.allclose(centers, references, atol=1e-4):
                updated[start : start + len(references)] = True
    return updated
