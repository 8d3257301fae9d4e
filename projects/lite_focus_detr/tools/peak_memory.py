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

Step = Callable[[], object]
Key = TypeVar("Key", bound=Hashable)

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
_MMAP_THRESHOLD = -3  # M_MMAP_THRESHOLD of malloc.h


def peak_memories(
    make_steps: Callable[[], Mapping[Key, Step]], device: str
) -> dict[Key, int | None]:
    """:func:`peak_memory` of several steps, whatever ran before them.

    They run in a process of their own, in which freed memory goes back at once. Usually glibc keeps
    freed blocks of up to 32 MB, in pieces that need not fit what follows: the same training step
    then needs a half more in a process that has trained other models before.

    Args:
        make_steps: gives the steps by name; a function that can be pickled.
        device: where they run.
    """
    context = multiprocessing.get_context("spawn")
    threads = (torch.get_num_threads(),)
    with ProcessPoolExecutor(1, context, torch.set_num_threads, threads) as pool:
        return pool.submit(_peak_memories, make_steps, device).result()


def _peak_memories(
    make_steps: Callable[[], Mapping[Key, Step]], device: str
) -> dict[Key, int | None]:
    library = ctypes.CDLL(None)
    if hasattr(library, "mallopt"):
        library.mallopt(_MMAP_THRESHOLD, 1 << 17)
    steps = make_steps()
    next(iter(steps.values()))()  # Libraries allocate their buffers in the first run.
    return {key: peak_memory(step, device) for key, step in steps.items()}


def peak_memory(step: Step, device: str) -> int | None:
    """Bytes that a step needs at most beyond what is allocated before it.

    On the CPU that is resident memory, which only Linux can tell: None elsewhere.

    Args:
        step: the work.
        device: where it runs.
    """
    if device.startswith("cuda"):
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        step()
        return torch.cuda.max_memory_allocated(device) - before
    if not _CLEAR.exists():
        step()
        return None
    _give_back_freed_memory()
    _CLEAR.write_text("5")  # Resets the high-water mark.
    before = _resident("VmRSS")
    step()
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
