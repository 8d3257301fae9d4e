"""How much memory a training needs at its largest moment, from runs on small images."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.autograd.profiler import profile, record_function

Array = npt.NDArray[np.float64]

_MARK = "lite_focus_detr_moment"


class BatchShape(NamedTuple):
    """Images of a batch, and their size in pixels."""

    images: int
    height: int
    width: int


@dataclass(frozen=True)
class TrainingMemory:
    """Bytes of a training step at M moments: from one gradient of a parameter to the next.

    What is there beside gradients grows with the number of images and with their pixels: every
    encoder of this package is linear in its tokens, and the decoder has a fixed number of queries.
    Which moment needs most depends on both: with small images the update of the weights, with
    large ones the end of the forward pass.
    """

    weights: int
    gradients: int
    optimizer: int  #: state of the optimiser
    average: int  #: of the weights, with ``MODEL.EMA``
    moments: Array  #: (M, 3), of a step, of each of its images, and of each of their pixels
    gradients_so_far: Array  #: (M,)

    @property
    def fixed(self) -> int:
        """What stays between the steps."""
        return self.weights + self.optimizer + self.average

    def peak(self, shape: BatchShape, accumulation_steps: int = 1) -> float:
        """Bytes at the largest moment.

        Args:
            shape: of a batch.
            accumulation_steps: batches of a step; from the second on all gradients are there.
        """
        gradients = self.gradients_so_far if accumulation_steps == 1 else self.gradients
        return self.fixed + float((self.moments @ _terms(shape) + gradients).max())

    def most_images(self, limit: float, height: int, width: int) -> int:
        """How many images of a size fit into a batch; 0 if none does.

        Args:
            limit: bytes.
            height: of an image in pixels.
            width: likewise.
        """
        step, image, pixel = self.moments.T
        free = limit - self.fixed - self.gradients_so_far - step
        needed = image + pixel * height * width
        fits = free / np.where(needed > 0, needed, np.inf)
        # A moment that needs nothing for an image has no limit unless it does not fit anyway.
        if (free < 0).any():
            return 0
        return int(fits[needed > 0].min())


def _terms(shape: BatchShape) -> Array:
    images, height, width = shape
    return np.array([1, images, images * height * width], dtype=float)


def measure_training_memory(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    step: Callable[[BatchShape], object],
    shapes: Sequence[BatchShape],
    *,
    average: bool,
) -> TrainingMemory:
    """Run steps of some shapes, and find the memory of all others.

    Args:
        model: on the CPU.
        optimizer: of its parameters.
        step: a step of the training with images of a shape, which leaves no gradients behind.
        shapes: three, of two numbers of images and two sizes; the first one also runs before, so
            that the optimiser has its state.
        average: an average of the weights is kept.
    """
    step(shapes[0])
    sizes: list[int] = []
    with _marked(model, optimizer, sizes):
        peaks = []
        for shape in shapes:
            sizes.clear()
            peaks.append(moment_peaks(lambda shape=shape: step(shape)))  # type: ignore[misc]
    # Before the first gradient, after each, during the update and after it.
    so_far = np.array([0, *np.cumsum(sizes)], dtype=float)
    so_far = np.append(so_far, [so_far[-1]] * 2)
    beside = np.stack(peaks) - so_far
    moments = np.linalg.solve(np.stack([_terms(shape) for shape in shapes]), beside).T
    weights = _bytes([*model.parameters(), *model.buffers()])
    states = [x for state in optimizer.state.values() for x in state.values()]
    return TrainingMemory(
        weights=weights,
        gradients=sum(sizes),
        optimizer=_bytes(x for x in states if isinstance(x, Tensor)),
        average=weights if average else 0,
        moments=moments,
        gradients_so_far=so_far,
    )


@contextmanager
def _marked(model: nn.Module, optimizer: torch.optim.Optimizer, sizes: list[int]) -> Iterator[None]:
    """Mark for the profiler when a gradient is there, and the update of the weights.

    ``sizes`` gets the bytes of the gradients in their order.
    """

    def mark(*_: Any) -> None:
        with record_function(_MARK):
            pass

    def note(parameter: Tensor) -> None:
        sizes.append(_bytes([parameter]))
        mark()

    hooks = [
        parameter.register_post_accumulate_grad_hook(note)  # type: ignore[no-untyped-call]
        for parameter in model.parameters()
        if parameter.requires_grad
    ]
    hooks.append(optimizer.register_step_pre_hook(mark))
    hooks.append(optimizer.register_step_post_hook(mark))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def moment_peaks(run: Callable[[], object]) -> Array:
    """Most bytes that PyTorch's allocator of the CPU has handed out at once, beyond what it had
    before, in each of the moments that the marks inside of ``run`` divide it into."""
    # Without a GPU its log says that there is none.
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")
    # The one of torch.profiler makes an object of each event, which takes longer than the step.
    with profile(profile_memory=True) as profiler:
        run()
    results = profiler.kineto_results
    assert results is not None
    peaks, current = [0], 0
    for event in sorted(results.events(), key=lambda event: event.start_ns()):
        if event.name() == "[memory]":
            current += event.nbytes()
            peaks[-1] = max(peaks[-1], current)
        elif event.name() == _MARK:
            peaks.append(current)
    return np.array(peaks, dtype=float)


def _bytes(tensors: Iterable[Tensor]) -> int:
    return sum(x.numel() * x.element_size() for x in tensors)
