"""Which tokens a selective encoder keeps: for pictures, and how well it chooses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from detectron2.structures import BoxMode
from torch import Tensor

from ..modeling import DetectionTransformer
from ..modeling.encoder.sparse import decoder_attention
from ..modeling.structures import FeatureTokens, SelectionTrace

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
    kept, objects = kept_tokens(trace)
    attention = decoder_attention(outputs.sampling, tokens)[0]
    return ImageTrace(tokens, trace.foreground[0].cpu(), kept, objects, attention.cpu())


def kept_tokens(trace: SelectionTrace) -> tuple[Tensor, Tensor]:
    """Which of the S tokens of the first image E layers kept, and which were object tokens.

    Returns:
        two (E, S) bool on the CPU; the second is all False without a dual attention.
    """
    kept = torch.zeros(len(trace.kept), trace.foreground.shape[1], dtype=torch.bool)
    objects = torch.zeros_like(kept)
    for layer, selection in enumerate(trace.kept):
        kept[layer, selection.of_image(0).cpu()] = True
        if trace.objects:
            chosen = selection.indices[0, trace.objects[layer].indices[0]]
            objects[layer, chosen.cpu()] = True
    return kept, objects


def covered_objects(trace: ImageTrace, boxes: Tensor) -> Tensor:
    """Which objects keep a token: (E, T) for boxes (T, 4) xyxy relative to the image.

    A token belongs to an object if its centre lies in the box.
    """
    return (trace.kept[:, :, None] & tokens_in_boxes(trace, boxes)).any(1)


def tokens_in_boxes(trace: ImageTrace, boxes: Tensor) -> Tensor:
    """Which tokens have their centre in which boxes: (S, T) for boxes (T, 4) xyxy."""
    centers = trace.tokens.centers[0].cpu()
    above = centers[:, None] > boxes[None, :, :2]
    return (above & (centers[:, None] < boxes[None, :, 2:])).all(-1)


class Placement(NamedTuple):
    """Where the tokens of an encoder layer land, over a data set; NaN where there are none."""

    recall: dict[str, float]  #: by object size and ``all``: share of the tokens in boxes kept
    kept_inside: float  #: share of the kept tokens that lie in a box
    objects_inside: float  #: share of the object tokens that do


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
    """How well an encoder selects tokens, over a data set."""

    def __init__(self) -> None:
        self.covered: list[Tensor] = []
        self.areas: list[Tensor] = []
        self.correlations: list[float] = []
        #: For each image (E, 3 sets of tokens, sizes + 2): the sets are all, kept and object
        #: tokens, the counts those in boxes of a size, in any box, and anywhere.
        self.counts: list[Tensor] = []

    def add(self, trace: ImageTrace, boxes: Tensor, areas: Tensor) -> None:
        """Count an image with boxes (T, 4) xyxy relative to it, of ``areas`` (T,) in pixels."""
        self.covered.append(covered_objects(trace, boxes))
        self.areas.append(areas)
        self.correlations.append(attention_correlation(trace))
        inside = tokens_in_boxes(trace, boxes)
        groups = [inside[:, members].any(1) for members in _size_groups(areas).values()]
        places = torch.stack([*groups, torch.ones_like(trace.kept[0])]).float()
        sets = torch.stack((torch.ones_like(trace.kept), trace.kept, trace.objects), 1).float()
        self.counts.append(sets @ places.mT)

    def add_annotated(
        self, trace: ImageTrace, annotations: Sequence[Mapping[str, Any]], width: int, height: int
    ) -> None:
        """Count an image with annotations in detectron2's format, in pixels of its file.

        Args:
            trace: of the image.
            annotations: of its objects.
            width: of the file in pixels.
            height: of the file in pixels.
        """
        boxes = relative_boxes(annotations, width, height)
        areas = (boxes[:, 2:] - boxes[:, :2]).prod(-1) * torch.tensor(float(width * height))
        self.add(trace, boxes, areas)

    def coverage(self) -> list[dict[str, float]]:
        """For each encoder layer the share of objects that keep a token, by size and ``all``.

        NaN where the data set has no such objects.
        """
        covered = torch.cat(self.covered, 1).float()
        groups = _size_groups(torch.cat(self.areas))
        return [
            {name: float(layer[members].mean()) for name, members in groups.items()}
            for layer in covered
        ]

    def placement(self) -> list[Placement]:
        """Where the tokens of each encoder layer land."""
        names = [*SIZES, "all"]
        layers = []
        for everything, kept, objects in torch.stack(self.counts).sum(0):
            recall = dict(zip(names, (kept / everything)[:-1].tolist(), strict=True))
            shares = [float(x[-2] / x[-1]) for x in (kept, objects)]
            layers.append(Placement(recall, *shares))
        return layers

    def correlation(self) -> float:
        """Mean of :func:`attention_correlation` over the images."""
        return sum(self.correlations) / len(self.correlations)


def _size_groups(areas: Tensor) -> dict[str, Tensor]:
    """Which objects (T,) are of which size, and ``all``, by their areas in pixels."""
    groups, lower = {}, 0.0
    for name, upper in SIZES.items():
        groups[name] = (areas >= lower) & (areas < upper)
        lower = upper
    return {**groups, "all": torch.ones_like(areas, dtype=torch.bool)}


def relative_boxes(annotations: Sequence[Mapping[str, Any]], width: int, height: int) -> Tensor:
    """Boxes (T, 4) xyxy relative to an image from annotations in detectron2's format."""
    boxes = [BoxMode.convert(x["bbox"], x["bbox_mode"], BoxMode.XYXY_ABS) for x in annotations]
    scale = torch.tensor([width, height, width, height], dtype=torch.float32)
    return torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4) / scale
