"""Parameters and multiply-adds of a detector, by part, for one image size."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any, NamedTuple

import torch
from detectron2.structures import ImageList
from fvcore.nn import FlopCountAnalysis
from torch import Tensor, nn

from ..modeling import DetectionTransformer

#: Parts of the detector in the order of the data flow; their modules have these names.
PARTS = ("backbone", "tokens", "encoder", "proposal_head", "queries", "decoder", "heads")


class Complexity(NamedTuple):
    """Cost of a detector for one image; one multiply-add counts 1."""

    flops: dict[str, float]  #: by part, see ``PARTS``, and ``total``
    parameters: dict[str, int]  #: by part, and ``total``
    trainable: int  #: parameters with a gradient


class _Forward(nn.Module):
    """The detector as a function of one tensor, which is what tracing needs."""

    def __init__(self, model: DetectionTransformer) -> None:
        super().__init__()
        self.model = model

    def forward(self, image: Tensor) -> list[Tensor]:
        images = ImageList(image, [(image.shape[-2], image.shape[-1])] * len(image))
        outputs = self.model.forward_outputs(images)
        # Everything that is computed is returned: tracing drops what nobody asks for.
        predictions = [*outputs.aux_outputs, (outputs.pred_logits, outputs.pred_boxes)]
        if outputs.proposal_outputs is not None:
            predictions.append(outputs.proposal_outputs)
        return [tensor for prediction in predictions for tensor in prediction]


def measure_complexity(model: DetectionTransformer, height: int, width: int) -> Complexity:
    """Count parameters and multiply-adds of inference.

    The protocol of the published tables: fvcore on one image, 850x1040 standing for the mean of
    COCO's validation set. Bilinear sampling counts four multiply-adds per value, in our operators
    as in ``grid_sample``; the attention products of the decoder count as matrix products.

    Args:
        model: a detector; its mode is restored.
        height: of the image in pixels.
        width: of the image in pixels.
    """
    training = model.training
    model.eval()
    image = torch.zeros(1, 3, height, width, device=model.device)
    analysis = FlopCountAnalysis(_Forward(model), image)
    analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
    analysis.tracer_warnings("none")
    analysis.set_op_handle("aten::scaled_dot_product_attention", _attention_flops)
    analysis.set_op_handle("lite_focus_detr::ms_deform_attn", _deformable_flops)
    with torch.no_grad():
        by_module = analysis.by_module()
    model.train(training)
    flops = {part: float(by_module[f"model.{part}"]) for part in PARTS}
    flops["total"] = float(by_module[""])
    parameters = {
        part: sum(p.numel() for p in getattr(model, part).parameters())
        for part in PARTS
        if getattr(model, part) is not None
    }
    parameters["total"] = sum(p.numel() for p in model.parameters())
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    return Complexity(flops, parameters, trainable)


def _shape(value: Any) -> list[int]:
    return list(value.type().sizes())


def _attention_flops(inputs: list[Any], outputs: list[Any]) -> Counter[str]:
    """Two matrix products: query by key and weights by value."""
    query, key, value = (_shape(x) for x in inputs[:3])
    pairs = math.prod(query[:-1]) * key[-2]
    return Counter({"attention": pairs * (query[-1] + value[-1])})


def _deformable_flops(inputs: list[Any], outputs: list[Any]) -> Counter[str]:
    """Four corners of every sampled value; the weighted sum is not counted in the tables."""
    value, weights = _shape(inputs[0]), _shape(inputs[-1])
    return Counter({"deformable_attention": 4 * math.prod(weights) * value[-1]})
