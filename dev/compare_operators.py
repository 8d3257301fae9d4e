"""The operators of this checkout against those of a commit, both in one process.

    python dev/compare_operators.py 200f2d9 --rounds 15

The sources of the commit are built into a folder of their own, as a package and a namespace of
another name. Both take turns in every round; a ratio is the median over the rounds of the time of
the commit by the time of this checkout, so that more than 1 is faster. Prints the size of an
encoder and of a decoder, forward and with gradients, and the processor
time of a call on a map of one pixel.
"""

# ruff: noqa: T201
from __future__ import annotations

import argparse
import importlib
import io
import platform
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import torch
from tabulate import tabulate
from torch import Tensor
from torch.utils import cpp_extension

from lite_focus_detr import ops
from lite_focus_detr.tools.benchmark.operators import QUERIES, SHAPES, make_inputs

ROOT = Path(__file__).resolve().parents[1]
NAME, NAME_BEFORE = "lite_focus_detr", "lite_focus_detr_before"
#: Calls of one measurement.
REPETITIONS = {"encoder": 1, "decoder": 20, "call": 300}

Function = Callable[[], object]


def load_commit(commit: str, folder: Path) -> ModuleType:
    """The package ``ops`` of a commit with its kernels for the CPU, built in ``folder``."""
    archive = subprocess.run(
        ["git", "archive", commit, "kernels", f"projects/{NAME}"],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    with tarfile.open(fileobj=io.BytesIO(archive.stdout)) as files:
        files.extractall(folder, filter="data")
    package = folder / NAME_BEFORE
    (folder / "projects" / NAME).rename(package)
    (package / "__init__.py").write_text("")
    for path in (folder / "kernels/cpu/register.cpp", *package.rglob("*.py")):
        path.write_text(path.read_text().replace(NAME, NAME_BEFORE))
    sources = sorted(str(path) for path in (folder / "kernels/cpu").glob("*.cpp"))
    command = ["c++", "-shared", "-fPIC", "-O3", "-std=c++17", "-w", "-ffp-contract=fast"]
    command += ["-fno-math-errno", "-DTORCH_TARGET_VERSION=0x020a000000000000", *sources]
    command += [f"-I{path}" for path in (folder / "kernels", *cpp_extension.include_paths())]
    command += [f"-L{path}" for path in cpp_extension.library_paths()]
    target = package / "ops" / "_cpu.so"
    subprocess.run([*command, "-lc10", "-ltorch_cpu", "-o", str(target)], check=True)
    sys.path.insert(0, str(folder))
    module = importlib.import_module(f"{NAME_BEFORE}.ops")
    if module.backend("cpu") != "cpu":
        raise RuntimeError(f"{commit}: {module.unavailable_reason('cpu')}")
    return module


def seconds(function: Function, repetitions: int, clock: Callable[[], float]) -> float:
    """Time of a call."""
    start = clock()
    for _ in range(repetitions):
        function()
    return (clock() - start) / repetitions


def compare(before: Function, now: Function, rounds: int, size: str) -> tuple[float, ...]:
    """Median seconds of both and median of their ratios in a round."""
    repetitions = REPETITIONS[size]
    # What a call costs is the processor time of one thread; waiting for the processor is not.
    clock = time.thread_time if size == "call" else time.perf_counter
    for function in (before, now):
        seconds(function, max(1, repetitions // 10), clock)
    pairs = []
    for index in range(rounds):
        if index % 2:
            first, second = (seconds(function, repetitions, clock) for function in (before, now))
        else:
            second, first = (seconds(function, repetitions, clock) for function in (now, before))
        pairs.append((first, second))
    return (
        statistics.median(first for first, _ in pairs),
        statistics.median(second for _, second in pairs),
        statistics.median(first / second for first, second in pairs),
    )


def gradients_of(call: Callable[..., Tensor], *tensors: Tensor) -> Function:
    """A function that runs a call and its backward."""

    def run() -> object:
        leaves = [tensor.detach().requires_grad_() for tensor in tensors]
        output = call(*leaves)
        return torch.autograd.grad(output, leaves, torch.ones_like(output))

    return run


def forward_of(call: Callable[..., Tensor], *tensors: Tensor) -> Function:
    """A function that runs a call alone."""

    def run() -> object:
        with torch.no_grad():
            return call(*tensors)

    return run


def recorded_forward_of(call: Callable[..., Tensor], *tensors: Tensor) -> Function:
    """A function that runs a call which autograd records."""
    leaves = [tensor.detach().requires_grad_() for tensor in tensors]
    return lambda: call(*leaves)


def calls(module: ModuleType, shapes: object) -> dict[str, Callable[..., Tensor]]:
    """The operators by name, as functions of tensors alone."""
    return {
        "multi-scale": lambda v, x, a: module.multi_scale_deformable_attention(v, shapes, x, a),
        "fused": lambda v, r, x, a: module.fused_deformable_attention(v, shapes, r, x, a),
        "key-aware, key = value": lambda q, v, x: module.key_aware_deformable_attention(
            q, None, v, shapes, x
        ),
        "key-aware": lambda q, k, v, x: module.key_aware_deformable_attention(q, k, v, shapes, x),
    }


def large_cases(before: ModuleType, queries: int) -> Iterator[tuple[str, Function, Function]]:
    """Every operator at a size of a model, forward and with gradients."""
    inputs = make_inputs(queries, torch.device("cpu"), torch.float32)
    value, key, query, locations, weights, references, offsets, logits = inputs
    tensors = {
        "multi-scale": (value, locations, weights),
        "fused": (value, references, offsets, logits),
        "key-aware, key = value": (query, value, locations),
        "key-aware": (query, key, value, locations),
    }
    old, new = calls(before, SHAPES), calls(ops, SHAPES)
    for name, arguments in tensors.items():
        yield name, forward_of(old[name], *arguments), forward_of(new[name], *arguments)
    for name, arguments in tensors.items():
        yield (
            f"{name}, gradients",
            gradients_of(old[name], *arguments),
            gradients_of(new[name], *arguments),
        )


def small_cases(before: ModuleType) -> Iterator[tuple[str, Function, Function]]:
    """The cost of a call: one pixel, one query, one head, one channel, one point."""
    value, query = torch.ones(1, 1, 1, 1), torch.ones(1, 1, 1, 1)
    locations, weights = torch.full((1, 1, 1, 1, 1, 2), 0.5), torch.ones(1, 1, 1, 1, 1)
    tensors = {
        "multi-scale": (value, locations, weights),
        "fused": (value, torch.ones(1, 1, 1, 2), locations, torch.ones(1, 1, 1, 1)),
        "key-aware, key = value": (query, value, locations),
    }
    old, new = calls(before, [(1, 1)]), calls(ops, [(1, 1)])
    kinds = {"": forward_of, ", recorded": recorded_forward_of, ", gradients": gradients_of}
    for suffix, make in kinds.items():
        for name, arguments in tensors.items():
            yield name + suffix, make(old[name], *arguments), make(new[name], *arguments)


def processor() -> str:
    """Its name, as Linux knows it."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def main(argv: list[str] | None = None) -> int:
    """Exit status: 1 if a row is slower than ``--least``."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("commit", help="what to compare with")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--least", type=float, default=0.0, help="smallest ratio that passes")
    parser.add_argument("--size", choices=tuple(REPETITIONS), action="append")
    options = parser.parse_args(argv)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        before = load_commit(options.commit, Path(folder))
        for size in options.size or REPETITIONS:
            cases = small_cases(before) if size == "call" else large_cases(before, QUERIES[size])
            for name, old, new in cases:
                first, second, ratio = compare(old, new, options.rounds, size)
                rows.append((size, name, 1e6 * first, 1e6 * second, ratio))
    load = Path("/proc/loadavg")
    print(
        f"{processor()}, {torch.get_num_threads()} threads, PyTorch {torch.__version__}, "
        f"{options.rounds} rounds, load {load.read_text().split()[0] if load.exists() else '?'}"
    )
    headers = ["size", "operator", f"{options.commit}, us", "now, us", "ratio"]
    print(tabulate(rows, headers=headers, floatfmt=("", "", ".1f", ".1f", ".2f")))
    return 1 if min(row[-1] for row in rows) < options.least else 0


if __name__ == "__main__":
    sys.exit(main())
