"""What the benchmarks share: workloads that take turns, and the choice of the operators."""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import torch

from ... import ops
from ...ops.native import ENVIRONMENT_VARIABLE
from .peak_memory import Key, Workload, peak_memories


def processor() -> str:
    """Name of the processor, its number of cores, and the widest vectors that PyTorch uses."""
    model = platform.processor() or platform.machine()
    with suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
        model = next(names, model)
    return f"{model}, {os.cpu_count()} cores, {torch.backends.cpu.get_cpu_capability()}"


class Measurement(NamedTuple):
    """Cost of one workload."""

    seconds: float  #: median wall-clock time of the rounds
    cpu_seconds: float  #: median processor time of the rounds, all threads together
    peak_bytes: int | None  #: most memory beyond what was allocated before; None if unknown


def measure(
    make_workloads: Callable[[], Mapping[Key, Workload]], rounds: int, device: str
) -> dict[Key, Measurement]:
    """Run each workload once for its memory, then all in turn in every round for their time.

    They take turns so that noise on the machine affects all of them alike.

    Args:
        make_workloads: gives the workloads by name; a function that can be pickled, because
            memory is measured in another process.
        rounds: timed runs of each workload; from three on the first, slower one does not count.
        device: where they run.
    """
    peaks = peak_memories(make_workloads, device)
    workloads = make_workloads()
    runs: dict[Key, list[tuple[float, float]]] = {key: [] for key in workloads}
    for _ in range(rounds):
        for key, workload in workloads.items():
            runs[key].append(timed(workload, device))
    return {key: _median(times, peaks[key]) for key, times in runs.items()}


def _median(runs: Sequence[tuple[float, float]], peak_bytes: int | None) -> Measurement:
    wall, cpu = zip(*runs, strict=True)
    return Measurement(statistics.median(wall), statistics.median(cpu), peak_bytes)


def ratio_cells(cost: Measurement, first: Measurement) -> list[object]:
    """Milliseconds, their ratio to those of ``first``, that of processor time, MB, their ratio."""
    row: list[object] = [1e3 * cost.seconds, cost.seconds / first.seconds]
    row.append(cost.cpu_seconds / first.cpu_seconds)
    if cost.peak_bytes is None or not first.peak_bytes:
        return [*row, "-", "-"]
    return [*row, cost.peak_bytes / 1e6, cost.peak_bytes / first.peak_bytes]


def timed(workload: Workload, device: str) -> tuple[float, float]:
    """Wall-clock and processor time, in seconds, of running a workload on a device once."""
    _synchronise(device)
    start, cpu_start = time.perf_counter(), time.process_time()
    workload()
    _synchronise(device)
    return time.perf_counter() - start, time.process_time() - cpu_start


def _synchronise(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)


def with_operators(
    make_workloads: Callable[[], Mapping[str, Workload]], kinds: Sequence[str]
) -> dict[tuple[str, str], Workload]:
    """Every workload with every kind of operators, by the names of both."""
    return {
        (name, kind): bind_operators(workload, kind)
        for name, workload in make_workloads().items()
        for kind in kinds
    }


def bind_operators(workload: Workload, kind: str) -> Workload:
    """The workload with the operators of :func:`operators`."""

    def run() -> object:
        with operators(kind):
            return workload()

    return run


def bind_threads(workload: Workload, number: int) -> Workload:
    """The workload in ``number`` threads of the CPU."""

    def run() -> object:
        with threads(number):
            return workload()

    return run


@contextmanager
def threads(number: int) -> Iterator[None]:
    """Let PyTorch use ``number`` threads of the CPU."""
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def kinds_of_operators(device: str, native_only: bool) -> list[str]:
    """The operators that run on a device and, unless these are it, the ``reference``."""
    kinds = [ops.backend(device)]
    if kinds != ["reference"] and not native_only:
        kinds.append("reference")
    return kinds


@contextmanager
def operators(kind: str) -> Iterator[None]:
    """Use the ``reference`` or, for any other ``kind``, the native operators."""
    before = os.environ.pop(ENVIRONMENT_VARIABLE, None)
    if kind == "reference":
        os.environ[ENVIRONMENT_VARIABLE] = kind
    try:
        yield
    finally:
        os.environ.pop(ENVIRONMENT_VARIABLE, None)
        if before is not None:
            os.environ[ENVIRONMENT_VARIABLE] = before
