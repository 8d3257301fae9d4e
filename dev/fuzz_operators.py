"""Random problems for the operators against their reference; needs PyTorch alone.

    python dev/fuzz_operators.py --problems 2000 --seed 0

The sizes are small and odd on purpose: maps of one pixel, widths of a head that fill no vector, no
queries, no images, locations at infinity, views with offsets and odd strides. Ends with the status
1 after a wrong result, with the name and seed that repeat it.

Under a sanitizer the same problems find what no comparison can, reads beyond a tensor among them:
``make asan`` runs them so.
"""

# ruff: noqa: T201
from __future__ import annotations

import argparse
import math
import os
import random
import sys
import threading
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from lite_focus_detr import ops
from lite_focus_detr.ops import reference

OPERATORS = {
    "multi_scale": "multi_scale_deformable_attention",
    "fused": "fused_deformable_attention",
    "key_aware": "key_aware_deformable_attention",
    "fused_key_aware": "fused_key_aware_deformable_attention",
}
CHANNELS = (1, 2, 3, 7, 8, 15, 16, 17, 30, 32, 33, 48, 64, 65)
# Coordinates that must neither be an address nor reach another query.
EXTREMES = (math.inf, -math.inf, 1e30, -1e30, 3e9, -3e9, -1e-6, 1.0, 0.0)
#: Of float32 against float64, relative to the largest element.
TOLERANCE = 2e-5


class Problem(NamedTuple):
    """One call: the tensors by name and in order, and what is not a tensor."""

    operator: str
    tensors: dict[str, Tensor]
    shapes: list[tuple[int, int]]
    options: dict[str, float | bool | None]

    def call(self, module: object, tensors: dict[str, Tensor]) -> Tensor:
        """The output of an operator of ``module``."""
        positional = dict(tensors)
        if "key_aware" in self.operator:
            positional = {"query": positional.pop("query"), "key": positional.pop("key", None)} | (
                positional
            )
        arguments: list[object] = []
        for name, tensor in positional.items():
            arguments.append(tensor)
            if name == "value":
                arguments.append(self.shapes)
        function: Callable[..., Tensor] = getattr(module, OPERATORS[self.operator])
        return function(*arguments, **self.options)


def make_problem(seed: int, extremes: bool) -> Problem:
    """The problem of a seed in float64, with coordinates far outside if ``extremes``."""
    choose = random.Random(seed)
    generator = torch.Generator().manual_seed(seed)

    def normal(*size: int) -> Tensor:
        return torch.randn(*size, generator=generator, dtype=torch.float64)

    largest = choose.choice((1, 2, 5, 9))
    shapes = [
        (choose.randint(1, largest), choose.randint(1, largest))
        for _ in range(choose.choice((1, 2, 3, 4, 4, 5)))
    ]
    batch, queries = choose.choice((0, 1, 1, 2, 3)), choose.choice((0, 1, 3, 5, 40))
    heads, channels = choose.randint(1, 4), choose.choice(CHANNELS)
    levels, points = len(shapes), choose.choice((1, 2, 3, 4, 4, 5, 8))
    tokens = sum(height * width for height, width in shapes)
    operator = choose.choice(list(OPERATORS))
    tensors: dict[str, Tensor] = {}
    options: dict[str, float | bool | None] = {}
    if "key_aware" in operator:
        tensors["query"] = normal(batch, queries, heads, channels)
        if choose.random() < 0.5:
            tensors["key"] = normal(batch, tokens, heads, channels)
        options = {"scale": choose.choice((None, 0.3)), "mask_outside": choose.random() < 0.5}
    tensors["value"] = normal(batch, tokens, heads, channels)
    if operator.startswith("fused"):
        size = choose.choice((2, 4))
        stored = choose.choice((1, levels))
        tensors["reference_points"] = (0.5 + 0.3 * normal(batch, queries, levels, size)).abs()
        tensors["points"] = 2 * normal(batch, queries, heads, stored, points, 2)
    else:
        tensors["points"] = 0.5 + 0.4 * normal(batch, queries, heads, levels, points, 2)
    if operator == "multi_scale":
        tensors["weights"] = normal(batch, queries, heads, levels, points)
    elif operator == "fused":
        tensors["weights"] = normal(batch, queries, heads, levels * points)
    if extremes and tensors["points"].numel() > 0:
        flat = tensors["points"].view(-1)
        for _ in range(1 + flat.numel() // 10):
            flat[choose.randrange(flat.numel())] = choose.choice(EXTREMES)
    return Problem(operator, tensors, shapes, options)


def with_odd_layout(tensor: Tensor, choose: random.Random) -> Tensor:
    """The same numbers in another memory: shifted, sliced out of something larger, or permuted."""
    layout = choose.choice(("dense", "shifted", "sliced", "permuted", "expanded"))
    if layout == "shifted":
        memory = tensor.new_empty(tensor.numel() + 3)
        return memory[3:].view(tensor.shape).copy_(tensor)
    if layout == "sliced":
        memory = tensor.new_empty(*tensor.shape[:-1], 2 * tensor.shape[-1] + 1)
        return memory[..., 1::2][..., : tensor.shape[-1]].copy_(tensor)
    if layout == "permuted":
        order = list(range(tensor.dim()))
        choose.shuffle(order)
        inverse = [order.index(axis) for axis in range(tensor.dim())]
        return tensor.permute(order).contiguous().permute(inverse)
    if layout == "expanded" and tensor.dim() > 0 and tensor.shape[0] == 1:
        return tensor[0].unsqueeze(0).expand(1, *tensor.shape[1:])
    return tensor.contiguous()


def outputs_and_gradients(
    module: object, problem: Problem, tensors: dict[str, Tensor], grad_output: Tensor
) -> dict[str, Tensor]:
    """Everything that a call and its backward compute, by name."""
    leaves = {name: tensor.detach().requires_grad_() for name, tensor in tensors.items()}
    output = problem.call(module, leaves)
    gradients = torch.autograd.grad(output, list(leaves.values()), grad_output.to(output.dtype))
    names = [f"gradient of {name}" for name in leaves]
    return {"output": output.detach(), **dict(zip(names, gradients, strict=True))}


def check(seed: int) -> str | None:
    """What is wrong with the problem of ``seed``, if anything."""
    choose = random.Random(-seed)
    extremes = choose.random() < 0.3
    dtype = choose.choice((torch.float32, torch.float32, torch.float64, torch.bfloat16))
    problem = make_problem(seed, extremes)
    exact = ("points", "reference_points")
    tensors = {
        name: with_odd_layout(
            tensor.to(torch.promote_types(dtype, torch.float32) if name in exact else dtype), choose
        )
        for name, tensor in problem.tensors.items()
    }
    value = tensors["value"]
    batch, queries = tensors["points"].shape[:2]
    grad_output = torch.randn(
        batch,
        queries,
        value.shape[2] * value.shape[3],
        generator=torch.Generator().manual_seed(seed),
        dtype=torch.float64,
    ).to(dtype)
    actual = outputs_and_gradients(ops, problem, tensors, grad_output)
    rounded = {name: tensor.double() for name, tensor in tensors.items()}
    expected = outputs_and_gradients(reference, problem, rounded, grad_output.double())
    # Half precision is rounded where it is stored, the arithmetic is the same.
    tolerance = TOLERANCE if dtype != torch.bfloat16 else 2.0**-6
    return _difference(actual, expected, tolerance, finite=not extremes)


def _difference(
    actual: dict[str, Tensor], expected: dict[str, Tensor], tolerance: float, finite: bool
) -> str | None:
    """The first tensor that differs. Where coordinates are extreme, a reference that multiplies
    infinity by zero gives NaN; then only what is finite there has to agree."""
    for name, right in expected.items():
        if actual[name].shape != right.shape:
            return f"{name} has the shape {tuple(actual[name].shape)}, not {tuple(right.shape)}"
        given = actual[name].double()
        if not finite:
            both = given.isfinite() & right.isfinite()
            given, right = given.where(both, 0.0), right.where(both, 0.0)
        if right.numel() == 0:
            continue
        error = (given - right).abs().max() / right.abs().max().clamp_min(1e-3)
        if not error <= tolerance:
            return f"{name} differs by {error:.1e} of its largest element"
    return None


def failures(seeds: Iterator[int]) -> list[str]:
    """What is wrong, a line for each problem that fails."""
    found = []
    for seed in seeds:
        wrong = check(seed)
        if wrong is not None:
            found.append(f"seed {seed}, {make_problem(seed, False).operator}: {wrong}")
    return found


def failures_of_threads(seeds: range, count: int) -> list[str]:
    """The same with ``count`` threads that call at once."""
    found: list[str] = []

    def work(first: int) -> None:
        found.extend(failures(iter(seeds[first::count])))

    threads = [threading.Thread(target=work, args=(i,)) for i in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


def failures_after_fork(seeds: range) -> list[str]:
    """The same in a child that ``fork`` made, as the workers of a data loader are."""
    child = os.fork()
    if child == 0:
        torch.set_num_threads(1)  # as data loaders do; OpenMP's threads do not survive a fork
        status = 1
        try:
            wrong = failures(iter(seeds))
            print(*wrong, sep="\n", end="", flush=True)
            status = 1 if wrong else 0
        finally:
            os._exit(status)
    _, status = os.waitpid(child, 0)
    return [] if status == 0 else [f"the child of a fork ended with {status}"]


def main(argv: list[str] | None = None) -> int:
    """Exit status: 1 if any result is wrong."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--problems", type=int, default=2000, help="random problems, in one thread")
    parser.add_argument("--seed", type=int, default=0, help="of the first problem")
    options = parser.parse_args(argv)
    if ops.backend("cpu") != "cpu":
        print(f"the kernels are not available: {ops.unavailable_reason('cpu')}", file=sys.stderr)
        return 1
    seeds = range(options.seed, options.seed + options.problems)
    some = seeds[: max(16, options.problems // 10)]
    wrong = failures(iter(seeds)) + failures_of_threads(some, 8) + failures_after_fork(some)
    for line in wrong:
        print(line)
    print(
        f"{options.problems} problems, {len(some)} by 8 threads, {len(some)} after a fork:", end=" "
    )
    print(f"{len(wrong)} wrong")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
