"""What Linux knows of a process."""

from __future__ import annotations

import os
from pathlib import Path


def process_start(process: int) -> str | None:
    """What tells a process from a later one with its id; None if there is no such process."""
    fields = _status(process)
    if fields is None:
        if os.path.isdir("/proc/self"):
            return None
        try:  # no Linux: the id alone
            os.kill(process, 0)
        except ProcessLookupError:
            return None
        except PermissionError:
            pass
        return "running"
    if fields[0] == "Z":
        return None
    boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8").strip()
    return f"{boot} {fields[19]}"


def is_stopped(process: int) -> bool:
    """Whether a process has got SIGSTOP, or is held by a debugger."""
    fields = _status(process)
    return fields is not None and fields[0] in "Tt"


def _status(process: int) -> list[str] | None:
    """Fields of ``/proc/ID/stat`` from the state on."""
    try:
        text = Path(f"/proc/{process}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    # After the name, which is in parentheses and may hold anything.
    return text.rpartition(")")[2].split()
