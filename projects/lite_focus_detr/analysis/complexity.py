"""Parameters, multiply-adds and activation memory of a detector, by part, for one image size."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from detectron2.structures import ImageList
from fvcore.nn import FlopCountAnalysis
from torch import Tensor, nn

from ..modeling import DetectionTransformer
from ..modeling.attention import KeyAwareAttention, SampledAttention

#: Parts of the detector in the order of the data flow; their modules have these names.
PARTS = ("backbone", "neck", "encoder", "proposal_head", "query_selector", "decoder", "heads")


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
        # Everything that is computed is returned: tracing drops unused outputs.
        predictions = [*outputs.aux_outputs, (outputs.pred_logits, outputs.pred_boxes)]
        if outputs.proposal_outputs is not None:
            predictions.append(outputs.proposal_outputs)
        return [tensor for prediction in predictions for tensor in prediction]


def measure_complexity(model: DetectionTransformer, height: int, width: int) -> Complexity:
    """Count parameters and multiply-adds of inference.

    The protocol of the published tables: fvcore on one image, 850x1040 standing for the mean of
    COCO's validation set. A sample costs four multiply-adds per channel, once where keys and
    values are the same. Its weight costs nothing more, but in key-aware attention two per channel:
    the products of query and key, and of weight and value. The attention products of the decoder
    count as matrix products. The native operators and the PyTorch formulation count alike.

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
    analysis.set_op_handle("aten::baddbmm_", _matrix_product_flops)
    analysis.set_op_handle("aten::grid_sampler", lambda inputs, outputs: 0)
    with torch.no_grad(), _count_samples(model) as samples:
        by_module = analysis.by_module()
    model.train(training)
    flops = {part: float(by_module[f"model.{part}"] + samples[part]) for part in PARTS}
    flops["total"] = float(by_module[""] + samples.total())
    parameters = {
        part: sum(p.numel() for p in getattr(model, part).parameters())
        for part in PARTS
        if getattr(model, part) is not None
    }
    parameters["total"] = sum(p.numel() for p in model.parameters())
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    return Complexity(flops, parameters, trainable)


@contextmanager
def _count_samples(model: DetectionTransformer) -> Iterator[Counter[str]]:
    """Multiply-adds of the sampling in all attention modules that run inside, by part."""
    flops: Counter[str] = Counter()

    def count(part: str, attention: SampledAttention) -> Callable[..., None]:
        per_channel = 4
        if isinstance(attention, KeyAwareAttention):
            per_channel = 4 * (1 if attention.key_proj is None else 2) + 2
        config = attention.config
        cost = per_channel * config.embed_dim * config.num_levels * config.num_points

        def add(module: nn.Linear, inputs: object, offsets: Tensor) -> None:
            flops[part] += cost * math.prod(offsets.shape[:-1])

        return add

    hooks = [
        module.sampling_offsets.register_forward_hook(count(name.partition(".")[0], module))
        for name, module in model.named_modules()
        if isinstance(module, SampledAttention)
    ]
    yield flops
    for hook in hooks:
        hook.remove()


def _shape(value: Any) -> list[int]:
    return list(value.type().sizes())


def _matrix_product_flops(inputs: list[Any], outputs: list[Any]) -> Counter[str]:
    """A product that is added to the first input."""
    left, right = (_shape(x) for x in inputs[1:3])
    return Counter({"matrix_product": math.prod(left) * right[-1]})


def _attention_flops(inputs: list[Any], outputs: list[Any]) -> Counter[str]:
    """Two matrix products: query by key and weights by value."""
    query, key, value = (_shape(x) for x in inputs[:3])
    pairs = math.prod(query[:-1]) * key[-2]
    return Counter({"attention": pairs * (query[-1] + value[-1])})
