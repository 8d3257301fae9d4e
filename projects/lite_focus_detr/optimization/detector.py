"""Steps that make a trained detector faster, each of which leaves its detections as they are."""

from __future__ import annotations

import copy

import torch
from detectron2.config import CfgNode
from detectron2.layers import Conv2d, FrozenBatchNorm2d
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from ..modeling import DetectionTransformer
from ..modeling.attention import SampledAttention
from ..modeling.transformer_layer import TransformerLayer
from .packed_layers import PackedFeedForward, PackedLinear, QuantizedFeedForward


def optimize_for_inference(
    model: nn.Module, dtype: torch.dtype | None = None
) -> DetectionTransformer:
    """Return a copy of a detector for inference only, that gives the same detections sooner.

    Batch normalisation of the backbone becomes part of its convolutions, which work in
    channels-last layout. On the CPU weights of attention projections and feed-forward parts are
    laid out once as oneDNN reads them, and a feed-forward part takes as many tokens at a time as
    the cache of a core holds. The copy cannot be trained, saved or moved.

    Args:
        model: trained, on the device where it will stay; it is left as it is.
        dtype: ``torch.bfloat16`` works in half precision wherever autocast does; ``torch.int8``
            multiplies in 8-bit integers in the feed-forward parts, on the CPU; None and
            ``torch.float32`` keep single precision, in which detections agree to rounding.

    Raises:
        TypeError: ``model`` is no detector of this package.
        ValueError: the dtype is another one, or this device cannot compute in it.
    """
    if not isinstance(model, DetectionTransformer):
        raise TypeError(f"model is a {type(model).__name__}, not a detector of this package")
    dtype = dtype or torch.float32
    _require_possible(model.device, dtype)
    optimized = copy.deepcopy(model).eval().requires_grad_(False)
    quantized = dtype == torch.int8
    if quantized:
        dtype = torch.float32
    if dtype != torch.float32:
        optimized.inference_dtype = dtype
    maps = nn.ModuleList((optimized.backbone, optimized.neck))
    fold_batch_norm(maps)
    maps.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    convert_convolutions(maps, dtype)
    if model.device.type == "cpu" and torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        pack_transformer(optimized, dtype, quantized=quantized)
    return optimized


def optimize_as_configured(model: nn.Module, cfg: CfgNode) -> nn.Module:
    """A model for inference as ``TEST.OPTIMIZE`` asks for it.

    Args:
        model: with its weights.
        cfg: complete configuration.

    Raises:
        TypeError, ValueError: see :func:`optimize_for_inference`.
    """
    if cfg.TEST.OPTIMIZE == "none":
        return model
    return optimize_for_inference(model, getattr(torch, cfg.TEST.OPTIMIZE))


def _require_possible(device: torch.device, dtype: torch.dtype) -> None:
    if dtype not in (torch.float32, torch.bfloat16, torch.int8):
        raise ValueError(
            f"dtype is {dtype}; it must be torch.float32, torch.bfloat16 or torch.int8"
        )
    if dtype == torch.int8 and device.type != "cpu":
        raise ValueError(f"torch.int8 is for the CPU, and the model is on {device}")
    if dtype == torch.int8 and not has_int8():
        engine = torch.backends.quantized.engine
        raise ValueError(
            "torch.int8 needs a PyTorch with oneDNN and an engine for quantised layers, which here "
            f"is {engine}; take torch.float32"
        )
    if device.type == "cpu" and dtype == torch.bfloat16 and not has_bfloat16():
        raise ValueError("this processor has no instructions for bfloat16; take torch.float32")


def has_bfloat16() -> bool:
    """Whether the processor multiplies matrices in bfloat16."""
    supported: bool = torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return supported


def has_int8() -> bool:
    """Whether this PyTorch multiplies matrices of 8-bit integers on this processor."""
    packs: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    return packs and torch.backends.quantized.engine != "none"


def fold_batch_norm(backbone: nn.Module) -> None:
    """Make the frozen normalisation of detectron2's convolutions part of their weights."""
    for layer in backbone.modules():
        if isinstance(layer, Conv2d) and isinstance(layer.norm, FrozenBatchNorm2d | nn.BatchNorm2d):
            norm = layer.norm
            assert norm.running_mean is not None
            assert norm.running_var is not None
            statistics = (norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias)
            fused = fuse_conv_bn_weights(layer.weight, layer.bias, *statistics)
            layer.weight, layer.bias = (nn.Parameter(x, requires_grad=False) for x in fused)
            layer.norm = None


def convert_convolutions(module: nn.Module, dtype: torch.dtype) -> None:
    """Keep the weights of convolutions in the precision in which they multiply.

    They are not laid out for oneDNN: its layout depends on the size of the image, and to get from
    one such layout to another takes several times as long as from that of PyTorch.
    """
    for layer in module.modules():
        if type(layer) in (nn.Conv2d, Conv2d):
            for parameter in layer.parameters(recurse=False):
                parameter.data = parameter.data.to(dtype)


def pack_transformer(model: nn.Module, dtype: torch.dtype, *, quantized: bool = False) -> None:
    """Replace the feed-forward parts, by ``quantized`` ones if asked to, and the projections of
    deformable attention."""
    for module in list(model.modules()):
        if isinstance(module, SampledAttention):
            for name, layer in module.named_children():
                if isinstance(layer, nn.Linear):
                    setattr(module, name, PackedLinear(layer, dtype))
        if isinstance(module, TransformerLayer):
            for first, second in module.feed_forward_layers:
                layers = getattr(module, first), module.activation, getattr(module, second)
                part = QuantizedFeedForward(*layers) if quantized else None
                setattr(module, first, part or PackedFeedForward(*layers, dtype))
                setattr(module, second, None)
