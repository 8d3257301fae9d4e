"""Which tokens a selective encoder keeps: for pictures, and how well it chooses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from detectron2.structures import BoxMode
from torch import Tensor

from ..modeling import DetectionTransformer
from ..modeling.encoder.sparse import decoder_attention
from ..modeling.structures import FeatureTokens

#: Upper bounds of the area of small and medium objects in pixels (COCO).
SIZES = {"small": 32.0**2, "medium": 96.0**2, "large": float("inf")}


class ImageTrace(NamedTuple):
    """What a selective encoder did with one image of S tokens. E encoder layers."""

    tokens: FeatureTokens  #: of the image
    foreground: Tensor  #: (S,) logits
    kept: Tensor  #: (E, S) bool, tokens that each layer updated
    objects: Tensor  #: (E, S) bool, those that the dual attention joined; all False without
    attention: Tensor  #: (S,) that the decoder paid to each token


def require_selection(model: DetectionTransformer) -> None:
    """Check that the encoder of a detector selects tokens.

    Raises:
        ValueError: it updates all of them.
    """
    if not model.encoder.keep_ratios:
        raise ValueError(
            f"{type(model).__name__} updates all tokens; set MODEL.META_ARCHITECTURE to a detector "
            "whose encoder selects tokens"
        )


@torch.no_grad()
def trace_selection(model: DetectionTransformer, inputs: Mapping[str, Any]) -> ImageTrace:
    """Run a detector on one image and note its choices.

    Args:
        model: in evaluation mode.
        inputs: as for the detector, with ``image``.

    Raises:
        ValueError: see :func:`require_selection`.
    """
    require_selection(model)
    outputs = model.forward_outputs(model.preprocess_image([inputs]), return_sampling=True)
    tokens, trace = outputs.tokens, outputs.encoder.trace
    assert trace is not None
    kept = torch.zeros(len(trace.kept), tokens.features.shape[1], dtype=torch.bool)
    objects = torch.zeros_like(kept)
    for layer, selection in enumerate(trace.kept):
        kept[layer, selection.indices[0].cpu()] = True
        if trace.objects:
            chosen = selection.indices[0, trace.objects[layer].indices[0]]
            objects[layer, chosen.cpu()] = True
    attention = decoder_attention(outputs.sampling, tokens)[0]
    return ImageTrace(tokens, trace.foreground[0].cpu(), kept, objects, attention.cpu())


def covered_objects(trace: ImageTrace, boxes: Tensor) -> Tensor:
    """Which objects keep a token: (E, T) for boxes (T, 4) xyxy relative to the image.

    A token belongs to an object if its centre lies in the box.
    """
    centers = trace.tokens.centers[0].cpu()
    above = centers[:, None] > boxes[None, :, :2]
    inside = (above & (centers[:, None] < boxes[None, :, 2:])).all(-1)  # (S, T)
    return (trace.kept[:, :, None] & inside).any(1)


def attention_correlation(trace: ImageTrace, share: float = 0.1) -> float:
    """Share of the decoder's attention that the selection would find (Corr of Sparse DETR, 4.3).

    Of the attention to the ``share`` of tokens that the decoder looks at most, the part that goes
    to the same number of tokens with the highest foreground scores; Focus-DETR, Table 3, has 0.1.
    """
    count = max(1, int(share * len(trace.attention)))
    best = trace.attention.topk(count)
    scored = torch.zeros_like(trace.attention)
    scored[trace.foreground.topk(count).indices] = 1.0
    return float((best.values * scored[best.indices]).sum() / best.values.sum())


class SelectionSummary:
    """Averages of the two measures over a data set."""

    def __init__(self) -> None:
        self.covered: list[Tensor] = []
        self.areas: list[Tensor] = []
        self.correlations: list[float] = []

    def add(self, trace: ImageTrace, boxes: Tensor, areas: Tensor) -> None:
        """Count an image with boxes (T, 4) xyxy relative to it, of ``areas`` (T,) in pixels."""
        self.covered.append(covered_objects(trace, boxes))
        self.areas.append(areas)
        self.correlations.append(attention_correlation(trace))

    def coverage(self) -> list[dict[str, float]]:
        """For each encoder layer the share of objects that keep a token, by size and ``all``.

        NaN where the data set has no such objects.
        """
        covered, areas = torch.cat(self.covered, 1).float(), torch.cat(self.areas)
        groups: dict[str, Tensor] = {}
        lower = 0.0
        for name, upper in SIZES.items():
            groups[name] = (areas >= lower) & (areas < upper)
            lower = upper
        groups["all"] = torch.ones_like(areas, dtype=torch.bool)
        return [
            {name: float(layer[members].mean()) for name, members in groups.items()}
            for layer in covered
        ]

    def correlation(self) -> float:
        """Mean of :func:`attention_correlation` over the images."""
        return sum(self.correlations) / len(self.correlations)


def relative_boxes(annotations: Sequence[Mapping[str, Any]], width: int, height: int) -> Tensor:
    """Boxes (T, 4) xyxy relative to an image from annotations in detectron2's format."""
    boxes = [BoxMode.convert(x["bbox"], x["bbox_mode"], BoxMode.XYXY_ABS) for x in annotations]
    scale = torch.tensor([width, height, width, height], dtype=torch.float32)
    return torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4) / scale
