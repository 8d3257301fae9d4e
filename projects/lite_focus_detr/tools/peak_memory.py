"""How much memory a piece of work needs at its largest moment."""

from __future__ import annotations

import ctypes
import gc
from collections.abc import Callable
from pathlib import Path

import torch

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def peak_memory(step: Callable[[], object], device: str) -> int | None:
    """Bytes that a step needs at most beyond what is allocated before it.

    On the CPU that is resident memory, which only Linux can tell: None elsewhere.

    Args:
        step: the work.
        device: where it runs.
    """
    if device.startswith("cuda"):
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        step()
        return torch.cuda.max_memory_allocated() - before
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
