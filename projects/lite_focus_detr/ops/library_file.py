"""What the file of a compiled library says about itself, before it is loaded.

Loading registers the kernels, and those of other sources would read other arguments: a library that
a failed build left behind would crash or compute garbage. So the build writes a stamp into each
library, which is compared with the sources beside the package. ``setup.py`` uses this module, which
imports nothing else.
"""

from __future__ import annotations

import hashlib
import mmap
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

#: What decides how a library is called.
INTERFACE = ("problem.h", "operators.h", "cpu/register.cpp", "cuda/register.cpp")
_STAMP = re.compile(rb"lite_focus_detr build ([0-9a-f]{16}) ([0-9.;+PTX]*)\0")
_ARCHITECTURE = re.compile(r"(\d+)\.(\d)(\+PTX)?")


class Stamp(NamedTuple):
    """The stamp of a library."""

    interface: str  #: digest of the sources that decide how it is called
    architectures: tuple[str, ...]  #: of CUDA, such as 8.0 and 12.0+PTX; none for the CPU


def interface_digest(kernels: Path) -> str:
    """16 hexadecimal digits for the interface in a folder of the kernels' sources."""
    digest = hashlib.sha256()
    for name in INTERFACE:
        digest.update((kernels / name).read_bytes())
    return digest.hexdigest()[:16]


def stamp_text(interface: str, architectures: Sequence[str] = ()) -> str:
    """What the build writes into a library."""
    return f"lite_focus_detr build {interface} {';'.join(architectures)}"


def read_stamp(path: Path) -> Stamp | None:
    """The stamp of the library in a file, None where there is none."""
    if path.stat().st_size == 0:
        return None
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        found = _STAMP.search(content)
        if found is None:
            return None
        architectures = found[2].decode()
        return Stamp(found[1].decode(), tuple(filter(None, architectures.split(";"))))


def covers(architectures: Sequence[str], capability: tuple[int, int]) -> bool:
    """Whether code for the architectures runs on a GPU of a compute capability.

    Machine code runs on its major version from its minor version on, PTX on everything later.
    """
    for text in architectures:
        match = _ARCHITECTURE.fullmatch(text)
        if match is None:
            continue
        version = int(match[1]), int(match[2])
        same_major = capability[0] == version[0] and capability[1] >= version[1]
        if same_major or (match[3] is not None and capability >= version):
            return True
    return False
