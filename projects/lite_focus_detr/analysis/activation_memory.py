"""Memory that a training step keeps between the forward and the backward pass, by part."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import torch
from detectron2.structures import ImageList
from torch import Tensor, nn

from ..modeling import DetectionTransformer
from .complexity import PARTS


def measure_activation_memory(
    model: DetectionTransformer, height: int, width: int
) -> dict[str, int]:
    """Bytes that autograd saves for the gradient of one image, without denoising queries.

    Every storage counts once, for the part that saves it first; parameters do not count. The
    numbers are those of the operators in use: the native ones save their inputs, the PyTorch
    formulation all samples.

    Args:
        model: a detector; its mode is restored.
        height: of the image in pixels.
        width: of the image in pixels.

    Returns:
        Bytes by part, see :data:`~lite_focus_detr.analysis.complexity.PARTS`, and ``total``.
    """
    saved: Counter[str] = Counter()
    seen = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    current = ["neck"]

    def save(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in seen:
            seen.add(storage.data_ptr())
            saved[current[-1]] += storage.nbytes()
        return tensor

    hooks = _follow_parts(model, current)
    training = model.training
    model.train()
    image = torch.zeros(1, 3, height, width, device=model.device)
    with torch.autograd.graph.saved_tensors_hooks(save, lambda tensor: tensor):
        # Kept alive until all is counted: a freed storage could be reused under the same address.
        outputs = model.forward_outputs(ImageList(image, [(height, width)]))
    model.train(training)
    for remove in hooks:
        remove()
    del outputs
    return {**{part: saved[part] for part in PARTS}, "total": saved.total()}


def _follow_parts(model: nn.Module, current: list[str]) -> list[Callable[[], None]]:
    """Keep the part whose module is running at the end of ``current``."""

    def enter(part: str) -> Callable[..., None]:
        return lambda *_: current.append(part)

    def leave(*_: object) -> None:
        current.pop()

    hooks = []
    for name, module in model.named_modules():
        part = name.partition(".")[0]
        if part in PARTS:
            hooks.append(module.register_forward_pre_hook(enter(part)).remove)
            hooks.append(module.register_forward_hook(leave).remove)
    return hooks
