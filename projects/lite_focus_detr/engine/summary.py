"""What a run begins with, in a few lines on the screen."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.utils import comm
from torch import nn

from .. import ops
from ..analysis.complexity import measure_complexity
from ..modeling import DetectionTransformer
from ..screen import screen
from .description import format_classes

# Larger models take seconds to count.
MAX_COUNTED = 10_000_000
_OPERATORS = {
    "cuda": "compiled, CUDA",
    "cpu": "compiled, CPU",
    "reference": "of PyTorch, slow: `lite-focus-detr env` says why",
}


def show_device(cfg: CfgNode, *, no_gpu: bool) -> None:
    """Show where the run computes, and with which operators.

    Args:
        cfg: with the final ``MODEL.DEVICE``.
        no_gpu: it is the CPU because there is no GPU.
    """
    device = torch.device(cfg.MODEL.DEVICE)
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
    else:
        threads = torch.get_num_threads()
        name = (
            f"CPU{', as there is no GPU' if no_gpu else ''}, {threads} thread{'s'[: threads - 1]}"
        )
    processes = comm.get_world_size()
    several = f"{processes} processes, each on " if processes > 1 else ""
    screen.info("Device: %s%s; PyTorch %s", several, name, torch.__version__)
    screen.info("Operators: %s", _OPERATORS[ops.backend(device)])


def show_model(
    cfg: CfgNode, model: nn.Module, *, class_names: Sequence[str] | None, weights: str
) -> None:
    """Show a detector: its classes, its size, what an image costs, where its weights are from.

    Args:
        cfg: complete configuration.
        model: without a wrapper for several processes.
        class_names: as far as known.
        weights: where they are from.
    """
    count = f"{cfg.MODEL.DETR.NUM_CLASSES} classes"
    classes = format_classes(class_names) if class_names else count
    screen.info("Model: %s, %s", cfg.MODEL.META_ARCHITECTURE, classes)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    height = int(cfg.INPUT.MIN_SIZE_TEST)
    is_small = isinstance(model, DetectionTransformer) and parameters <= MAX_COUNTED
    cost = _cost(model, height, height * 4 // 3) if is_small and height else ""
    screen.info("Cost: %.2g M parameters%s", parameters / 1e6, cost)
    screen.info("Weights: %s", weights)


def _cost(model: Any, height: int, width: int) -> str:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        flops = measure_complexity(model, height, width).flops["total"]
    return f", {flops / 1e9:.2g} GFLOPs for an image of {height}x{width}"
