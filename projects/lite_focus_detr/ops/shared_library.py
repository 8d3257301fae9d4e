"""Whether the file of a compiled library is all there, found out without loading it.

The loader maps a library into memory and believes its headers. What is missing at the end of the
file then ends the process by the signal SIGBUS, without a word.
"""

from __future__ import annotations

import os
import struct
from typing import NamedTuple

_MAGIC = b"\x7fELF\x02\x01"  # 64 bits, little endian
_HEADER = struct.Struct("<16xHHIQQQIHHHHHH")
_SEGMENT = struct.Struct("<IIQQQQQQ")
_SECTION = struct.Struct("<IIQQQQIIQQ")
_NO_BITS = 8  # type of a section that takes no place in the file
_MACHINES = {"x86_64": 62, "aarch64": 183}


class _Header(NamedTuple):
    """Fields of an ELF header from ``e_type`` to ``e_shstrndx``."""

    type: int
    machine: int
    version: int
    entry: int
    segments: int
    sections: int
    flags: int
    size: int
    segment_size: int
    num_segments: int
    section_size: int
    num_sections: int
    names: int


def library_fault(path: str) -> str | None:
    """Why a library must not be loaded; None if it may, or if the loader itself will refuse it.

    Args:
        path: of a shared library.

    Raises:
        OSError: the file cannot be read.
    """
    size = os.path.getsize(path)
    with open(path, "rb") as file:
        start = file.read(_HEADER.size)
        if len(start) < _HEADER.size or not start.startswith(_MAGIC):
            return None
        header = _Header._make(_HEADER.unpack(start))
        expected = _MACHINES.get(os.uname().machine)
        if expected is not None and header.machine != expected:
            return f"is for another machine than {os.uname().machine}"
        if size < _end(header):
            return _truncated(size, _end(header))
        file.seek(header.segments)
        segments = file.read(header.num_segments * header.segment_size)
        file.seek(header.sections)
        sections = file.read(header.num_sections * header.section_size)
    ends = [
        *(offset + length for _, _, offset, _, _, length, *_ in _SEGMENT.iter_unpack(segments)),
        *(
            offset + length
            for _, kind, _, _, offset, length, *_ in _SECTION.iter_unpack(sections)
            if kind != _NO_BITS
        ),
    ]
    needed = max(ends, default=0)
    return _truncated(size, needed) if size < needed else None


def _end(header: _Header) -> int:
    """Where the tables of segments and of sections end, the second usually with the file."""
    return max(
        header.segments + header.num_segments * header.segment_size,
        header.sections + header.num_sections * header.section_size,
    )


def _truncated(size: int, needed: int) -> str:
    return f"is truncated: it has {size} of at least {needed} bytes"
