"""Whether a substitute computes what a module computes, tried on small random inputs.

Names of arguments and attributes tell what a module looks like, not what it does: masks mean
padding in one family and its opposite in another. Outputs and gradients of a copy with random
weights tell it.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from . import arguments

#: Largest difference of float32 results, relative to the largest value of each.
TOLERANCE = 1e-4
#: What code of others may raise on inputs that it does not expect.
FAILURES = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    ImportError,
    LookupError,
    NameError,
    RuntimeError,
    TypeError,
    ValueError,
)


class Probe:
    """Random tensors, always the same ones."""

    def __init__(self) -> None:
        self._generator = torch.Generator().manual_seed(0)

    def normal(self, *size: int) -> Tensor:
        """Normally distributed, with gradients."""
        return torch.randn(size, generator=self._generator, device="cpu").requires_grad_()

    def uniform(self, *size: int) -> Tensor:
        """Between 0.1 and 0.9, with gradients."""
        drawn = torch.rand(size, generator=self._generator, device="cpu")
        return (0.1 + 0.8 * drawn).requires_grad_()

    def mask(self, *size: int) -> Tensor:
        """Of bool."""
        return torch.rand(size, generator=self._generator, device="cpu") < 0.5

    def copy_of(self, module: nn.Module) -> nn.Module:
        """The module in evaluation on the CPU, in float32, with other weights."""
        copied = copy.deepcopy(module).to("cpu", torch.float32).eval()
        for parameter in copied.parameters():
            parameter.data = 0.3 * self.normal(*parameter.shape).detach()
            parameter.requires_grad_()
        return copied


@contextmanager
def plain_settings() -> Iterator[None]:
    """Single precision with gradients on the CPU, whatever the caller has set."""
    with (
        torch.inference_mode(False),
        torch.enable_grad(),
        torch.autocast("cpu", enabled=False),
        torch.device("cpu"),
    ):
        yield


def shapes_of_levels(levels: int) -> list[tuple[int, int]]:
    """Small (H, W) of maps, all of them different where there are few."""
    return [(max(6 - level, 1), max(4 - level, 1) + level % 2) for level in range(levels)]


def shape_arguments(shapes: Sequence[tuple[int, int]]) -> dict[str, Any]:
    """What the shapes of the levels are called, and the indices of their first tokens."""
    table = torch.tensor(shapes)
    starts = torch.cat((table.new_zeros(1), table.prod(1).cumsum(0)[:-1]))
    given: dict[str, Any] = dict.fromkeys(arguments.SHAPES, table)
    given |= {name: list(shapes) for name in arguments.SHAPES if name.endswith("list")}
    return given | dict.fromkeys(arguments.STARTS, starts)


def evaluate(
    function: Callable[..., Any], given: Mapping[str, Any], weights: Iterable[Tensor] = ()
) -> tuple[list[Tensor], list[Tensor]]:
    """Results of a function, and the gradients of the first of them.

    Args:
        function: returns a tensor or a tuple of tensors.
        given: its arguments by name.
        weights: tensors that it depends on besides. Gradients are those of all tensors that
            require them, zero where the result does not depend on one.
    """
    returned = function(**given)
    results = list(returned) if isinstance(returned, tuple) else [returned]
    if not all(isinstance(result, Tensor) for result in results):
        raise TypeError(f"it returns {[type(result).__name__ for result in results]}, not tensors")
    tensors = [x for x in (*given.values(), *weights) if isinstance(x, Tensor) and x.requires_grad]
    # With different factors: a sum alone would not tell one element from another.
    factors = torch.linspace(-1, 1, results[0].numel()).view_as(results[0])
    gradients = torch.autograd.grad((results[0] * factors).sum(), tensors, allow_unused=True)
    return results, [
        torch.zeros_like(tensor) if gradient is None else gradient
        for tensor, gradient in zip(tensors, gradients, strict=True)
    ]


def difference(actual: Sequence[Tensor], expected: Sequence[Tensor]) -> float:
    """The largest difference, relative to the largest value of each tensor.

    NaN where one is in them, infinite where they are not alike in number and shape.
    """
    if [x.shape for x in actual] != [x.shape for x in expected]:
        return float("inf")
    differences = [
        (ours - theirs).detach().abs().max() / theirs.detach().abs().max().clamp(min=1e-6)
        for ours, theirs in zip(actual, expected, strict=True)
        if theirs.numel()
    ]
    return float(torch.stack(differences).max())
