"""Speed of the operators on a GPU, which a clock of the host cannot tell.

A kernel takes less time than its launch: each contender is captured in a CUDA graph, which is
replayed between two events. The graph goes through several sets of inputs, together more than twice
the L2 cache, so that no call finds in the cache what the one before has left there. All contenders
take turns in every round. The floor of a case is the time to move its inputs and results once, at
the speed of a copy on the same GPU; the decoder has none, because its queries read only a part of
the maps.
"""

from __future__ import annotations

import importlib
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import NamedTuple, Protocol

import torch
from tabulate import tabulate
from torch import Tensor

from ... import ops
from . import operators
from .operators import Case
from .original_kernel import level_table, original_attention

HEADERS = ("queries", "operator", "", "us", "ratio", "GB/s", "share of floor")
#: What other packages raise that are of another release or do not run on a GPU.
PEER_ERRORS = (
    RuntimeError,
    ValueError,
    TypeError,
    AttributeError,
    LookupError,
    OSError,
    ImportError,
)
#: What takes every dtype as it is; all others have casts to float32 and back.
_WITHOUT_CASTS = {"native", "deformops"}
#: Numbers of queries too small to read all of the maps.
_READ_A_PART = {"decoder"}
_COPIED_BYTES = 1 << 28
#: Of a graph between two events.
_REPLAYS = 20


class CaptureError(RuntimeError):
    """A function failed while it was captured, after which CUDA may not work any more."""


class Timer(Protocol):
    """Measures functions on a device."""

    def prepare(self, calls: Sequence[Callable[[], object]]) -> Callable[[], float]:
        """A function that runs all ``calls`` some times and returns the mean seconds of one.

        Raises:
            CaptureError: they cannot be measured, and nothing can be after them.
        """


class GraphTimer:
    """Replays CUDA graphs between events."""

    def prepare(self, calls: Sequence[Callable[[], object]]) -> Callable[[], float]:
        """See :class:`Timer`."""
        stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for call in (*calls, *calls):  # lazy loading, choice of algorithms, allocations
                call()
        torch.cuda.current_stream().wait_stream(stream)
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph):
                for call in calls:
                    call()
        except PEER_ERRORS as error:
            raise CaptureError(_first_line(error)) from error
        graph.replay()

        def measure() -> float:
            start = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
            end = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
            start.record()
            for _ in range(_REPLAYS):
                graph.replay()
            end.record()
            end.synchronize()
            return 1e-3 * start.elapsed_time(end) / (_REPLAYS * len(calls))

        return measure


class Row(NamedTuple):
    """The measurement of a contender of a case."""

    case: str
    contender: str
    seconds: float
    moved_bytes: int  #: inputs and results


def peers(device: torch.device) -> dict[str, dict[str, Callable[..., Tensor]]]:
    """Contenders that run on a GPU alone, by the name of their case.

    Args:
        device: where they run.
    """
    shapes = operators.SHAPES
    levels = level_table(shapes, device)
    sizes, starts = levels[:, :2].long(), levels[:, 2].long()

    def original(value: Tensor, locations: Tensor, weights: Tensor) -> Tensor:
        output = original_attention(value.float(), levels, locations.float(), weights.float())
        return output.to(value.dtype)

    plain: dict[str, Callable[..., Tensor]] = {"original algorithm": original}
    fused: dict[str, Callable[..., Tensor]] = {}
    with suppress(ImportError):
        library = importlib.import_module("deformops")
        for name in ("deform2d_multiscale", "deform2d_multiscale_fused"):
            with suppress(AttributeError):  # other releases load them by themselves
                library.library.load(name)

        def deformops(value: Tensor, locations: Tensor, weights: Tensor) -> Tensor:
            output: Tensor = library.deform2d_multiscale(
                value, sizes, starts, locations, weights, 128
            )
            return output

        def fused_deformops(
            value: Tensor, references: Tensor, offsets: Tensor, logits: Tensor
        ) -> Tensor:
            locations = ops.reference.sampling_locations(shapes, references, offsets)
            output: Tensor = library.deform2d_multiscale_fused(
                value, sizes, starts, locations, logits, 128, offsets.shape[4]
            )
            return output

        plain["deformops"], fused["deformops"] = deformops, fused_deformops
    return {"multi-scale": plain, "fused": fused}


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), "")


def number_of_sets(tensors: Sequence[Tensor], cache_bytes: int) -> int:
    """How many sets of inputs are more than twice a cache; at least two.

    Args:
        tensors: one set.
        cache_bytes: size of the cache.
    """
    return max(2, 2 * cache_bytes // max(1, _bytes(tensors)) + 1)


def _bytes(tensors: Sequence[Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _call(function: Callable[..., Tensor], case: Case) -> Callable[[], object]:
    """A function without arguments that runs a contender of a case once."""
    if not case.backward:

        def forward() -> object:
            with torch.no_grad():
                return function(*case.tensors)

        return forward
    # The references of an encoder are constants.
    leaves = [
        tensor.detach().requires_grad_(index != 1 or case.name != "fused")
        for index, tensor in enumerate(case.tensors)
    ]
    wanted = [leaf for leaf in leaves if leaf.requires_grad]
    grad_output = torch.ones_like(function(*leaves))

    def backward() -> object:
        return torch.autograd.grad(function(*leaves), wanted, grad_output)

    return backward


def _moved_bytes(case: Case) -> int:
    """Bytes that are read or written at least: twice, and the gradients, with gradients."""
    inputs = _bytes(case.tensors)
    with torch.no_grad():
        output = _bytes([case.contenders["native"](*case.tensors)])
    if not case.backward:
        return inputs + output
    constants = _bytes([case.tensors[1]]) if case.name == "fused" else 0
    return 3 * inputs - constants + 2 * output


def _cases_of_sets(queries: int, device: torch.device, dtype: torch.dtype) -> Iterator[list[Case]]:
    """Every case with several sets of inputs."""
    first = operators.make_inputs(queries, device, dtype)
    cache = torch.cuda.get_device_properties(device).L2_cache_size if device.type == "cuda" else 0
    sets = [
        list(operators.make_cases(operators.make_inputs(queries, device, dtype, seed), device))
        for seed in range(number_of_sets(first[:1], cache))
    ]
    for cases in zip(*sets, strict=True):
        yield list(cases)


def _line_of_failure(case: str, contender: str, error: Exception) -> str:
    """What became of a contender that is left out; raises where the others cannot go on."""
    line = f"{case}: {contender} fails ({type(error).__name__}: {_first_line(error)})"
    if contender == "native":
        raise RuntimeError(line) from error
    if isinstance(error, CaptureError):
        raise CaptureError(f"{line}; it and all that follows are left out") from error
    return line


def measure_case(
    cases: Sequence[Case],
    contenders: Mapping[str, Callable[..., Tensor]],
    timer: Timer,
    rounds: int,
) -> tuple[list[Row], list[str]]:
    """The rows of a case, and what went wrong with a contender, as lines.

    Args:
        cases: the same case with several sets of inputs.
        contenders: by name; one that fails is left out, but for the native operator.
        timer: measures them.
        rounds: the contenders take turns in each; times are medians.

    Raises:
        CaptureError: a contender failed in such a way that nothing can be measured any more.
        RuntimeError: the native operator failed.
    """
    name = f"{cases[0].name}{', gradients' if cases[0].backward else ''}"
    measures, failures = {}, []
    for contender, function in contenders.items():
        try:
            measures[contender] = timer.prepare([_call(function, case) for case in cases])
        except PEER_ERRORS as error:
            failures.append(_line_of_failure(name, contender, error))
    times: dict[str, list[float]] = {contender: [] for contender in measures}
    for _ in range(rounds):
        for contender, measure in measures.items():
            times[contender].append(measure())
    moved = _moved_bytes(cases[0])
    rows = [
        Row(name, contender, statistics.median(seconds), moved)
        for contender, seconds in times.items()
    ]
    return rows, failures


def copy_speed(device: torch.device, timer: Timer, rounds: int) -> float:
    """Bytes per second of a copy, read and written.

    Args:
        device: where it is measured.
        timer: measures it.
        rounds: measurements, of which the median counts.
    """
    source = torch.empty(_COPIED_BYTES if device.type == "cuda" else 1 << 20, dtype=torch.int8)
    source = source.to(device)
    targets = [torch.empty_like(source) for _ in range(2)]
    measure = timer.prepare([partial(target.copy_, source) for target in targets])
    return 2 * source.numel() / statistics.median(measure() for _ in range(rounds))


def table(rows: Sequence[Row], size: str, speed: float) -> list[list[object]]:
    """Cells of the rows; a ratio is to the native operator of the same case.

    Args:
        rows: measurements.
        size: what the queries are called.
        speed: of a copy in bytes per second, which gives the floor.
    """
    has_floor = size not in _READ_A_PART
    native = {row.case: row.seconds for row in rows if row.contender == "native"}
    return [
        [
            size,
            row.case,
            row.contender,
            1e6 * row.seconds,
            row.seconds / native[row.case] if row.case in native else "-",
            1e-9 * row.moved_bytes / row.seconds if has_floor else "-",
            f"{row.moved_bytes / speed / row.seconds:.0%}" if has_floor else "-",
        ]
        for row in rows
    ]


def _label(contender: str, dtype: str) -> str:
    """The name of a contender, which says whether its time includes casts."""
    if dtype == "float32" or contender in _WITHOUT_CASTS:
        return contender
    return f"{contender}, with casts"


def run(
    sizes: Sequence[str], device: torch.device, dtype: str, rounds: int, timer: Timer | None = None
) -> None:
    """Measure every operator and print a table.

    Args:
        sizes: names of numbers of queries.
        device: a GPU.
        dtype: name of the dtype of keys, values and queries.
        rounds: how often each is measured.
        timer: measures; by default CUDA graphs.

    Raises:
        RuntimeError: the native operator failed.
    """
    timer = GraphTimer() if timer is None else timer
    speed = copy_speed(device, timer, rounds)
    print(f"a copy moves {1e-9 * speed:.0f} GB/s; times of CUDA graphs, medians of {rounds} rounds")
    others = peers(device)
    cells, failures = [], []
    try:
        for size in sizes:
            queries = operators.QUERIES[size]
            for cases in _cases_of_sets(queries, device, getattr(torch, dtype)):
                contenders = {**cases[0].contenders, **others.get(cases[0].name, {})}
                labelled = {_label(name, dtype): call for name, call in contenders.items()}
                rows, failed = measure_case(cases, labelled, timer, rounds)
                cells += table(rows, size, speed)
                failures += failed
    except CaptureError as error:
        failures.append(str(error))
    print(tabulate(cells, headers=HEADERS, floatfmt=".1f"), flush=True)
    for failure in failures:
        print(failure)
