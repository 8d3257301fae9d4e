"""How much memory a piece of work needs at its largest moment."""

from __future__ import annotations

import ctypes
import gc
import multiprocessing
from collections.abc import Callable, Hashable, Mapping
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import TypeVar

import torch

Workload = Callable[[], object]
Key = TypeVar("Key", bound=Hashable)

_STATUS = Path("/proc/self/status")
#: Resets the high-water mark of resident memory; only Linux has it.
CLEAR_REFS = Path("/proc/self/clear_refs")
_MMAP_THRESHOLD = -3  # M_MMAP_THRESHOLD of malloc.h


def peak_memories(
    make_workloads: Callable[[], Mapping[Key, Workload]], device: str
) -> dict[Key, int | None]:
    """:func:`peak_memory` of several workloads, whatever ran before them.

    They run in a process of their own, in which freed memory goes back at once. Usually glibc keeps
    freed blocks of up to 32 MB, in pieces that need not fit what follows: the same training step
    then needs a half more in a process that has trained other models before.

    Args:
        make_workloads: gives the workloads by name; a function that can be pickled.
        device: where they run.
    """
    context = multiprocessing.get_context("spawn")
    threads = (torch.get_num_threads(),)
    with ProcessPoolExecutor(1, context, torch.set_num_threads, threads) as pool:
        return pool.submit(_peak_memories, make_workloads, device).result()


def _peak_memories(
    make_workloads: Callable[[], Mapping[Key, Workload]], device: str
) -> dict[Key, int | None]:
    library = ctypes.CDLL(None)
    if hasattr(library, "mallopt"):
        library.mallopt(_MMAP_THRESHOLD, 1 << 17)
    workloads = make_workloads()
    next(iter(workloads.values()))()  # Libraries allocate their buffers in the first run.
    return {key: peak_memory(workload, device) for key, workload in workloads.items()}


def peak_memory(workload: Workload, device: str) -> int | None:
    """Bytes that a workload needs at most beyond what is allocated before it.

    On the CPU that is resident memory, which only Linux can tell: None elsewhere.

    Args:
        workload: the work.
        device: where it runs.
    """
    if device.startswith("cuda"):
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        workload()
        return torch.cuda.max_memory_allocated(device) - before
    if not CLEAR_REFS.exists():
        workload()
        return None
    _give_back_freed_memory()
    CLEAR_REFS.write_text("5")
    before = _resident("VmRSS")
    workload()
    return _resident("VmHWM") - before


def _give_back_freed_memory() -> None:
    """What the C library keeps for later would hide allocations; only glibc can be asked."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def _resident(field: str) -> int:
    line = next(x for x in _STATUS.read_text().splitlines() if x.startswith(field))
    return 1024 * int(line.split()[1])
