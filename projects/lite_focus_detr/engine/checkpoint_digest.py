"""Damage to checkpoint files: a digest over every byte of our own, the checksums of all others.

Neither protects from somebody who changes a file on purpose and computes them anew. They find what
disks, copies and networks do to files.
"""

from __future__ import annotations

import hashlib
import os
import struct
import zipfile
from typing import IO

import numpy as np
from zlib_ng.zlib_ng import crc32

# The digest is the comment at the end of the zip archive that a checkpoint is: other programs read
# the archive as if it were not there.
_MARK = b"lite-focus-detr digest "
_HEX_DIGITS = 64
_COMMENT_SIZE = len(_MARK) + _HEX_DIGITS
# The last record of an archive without a comment; its last two bytes are the comment's length.
_END_RECORD = struct.Struct("<4s4H2LH")
_END_SIGNATURE = b"PK\x05\x06"
_ZIP_SIGNATURE = b"PK\x03\x04"
# What lies before the name of a member, of which its length and that of the extra field matter.
_LOCAL_HEADER = struct.Struct("<4s22x2H")

_BLOCK = 1 << 20
_ROW = 512  # words of 8 bytes
_PIECE = 8 * _BLOCK


class DamagedFileError(ValueError):
    """What is wrong with the bytes of a file: the rest of a sentence that begins with its name."""


def append_digest(file: IO[bytes]) -> None:
    """Add the digest to what ``torch.save`` has just written.

    Args:
        file: open for reading and writing, at its end.
    """
    end = file.tell() - _END_RECORD.size
    file.seek(end)
    signature, *counts, comment_size = _END_RECORD.unpack(file.read(_END_RECORD.size))
    if signature != _END_SIGNATURE or comment_size:
        raise ValueError("a digest can only be added to a zip archive without a comment")
    file.seek(end)
    file.write(_END_RECORD.pack(signature, *counts, _COMMENT_SIZE) + _MARK)
    file.flush()
    file.write(_digest(file.fileno(), file.tell()))


def require_plain(path: str) -> None:
    """Check that reading a file takes no more memory than it is large, by the list of its members.

    Args:
        path: of a file that can be read; other formats than zip archives pass.

    Raises:
        DamagedFileError: members are compressed or overlap.
        zipfile.BadZipFile: it begins like an archive, but is none.
    """
    with open(path, "rb") as file:
        if file.read(len(_ZIP_SIGNATURE)) == _ZIP_SIGNATURE:
            with zipfile.ZipFile(file) as archive:
                _require_plain(archive, os.fstat(file.fileno()).st_size)


def require_intact(path: str) -> None:
    """Check the digest of a file of this project, or the checksums of another zip archive.

    It spends its time outside of Python, so that another thread may read the file meanwhile. Other
    formats, those of old PyTorch and of pickles, have nothing that could be checked.

    Args:
        path: of a file that can be read.

    Raises:
        DamagedFileError: some bit of the file has changed.
        zipfile.BadZipFile: it begins like an archive, but is none.
    """
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        head = file.read(len(_ZIP_SIGNATURE))
        file.seek(max(0, size - _COMMENT_SIZE))
        comment = file.read()
        if comment.startswith(_MARK):
            if _digest(file.fileno(), size - _HEX_DIGITS) != comment[len(_MARK) :]:
                raise DamagedFileError("is damaged: its content does not fit its digest")
        elif head == _ZIP_SIGNATURE:
            with zipfile.ZipFile(file) as archive:
                if archive.comment:
                    raise DamagedFileError("is damaged in its last bytes")
                _require_plain(archive, size)
                _require_checksums(file.fileno(), archive.infolist())


class _Pieces:
    """A file in pieces of several MB.

    Each call of the system hands Python over to the thread that reads the file, and takes it back:
    many small ones would keep that thread waiting.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        size = min(_PIECE, os.fstat(descriptor).st_size)
        self._buffer = memoryview(bytearray(size))
        self._start = self._end = 0

    def get(self, start: int, end: int, least: int = 1) -> memoryview:
        """Bytes from ``start`` on, up to ``end`` or as many as a piece has, valid until the next.

        Raises:
            DamagedFileError: the file ends before there are ``least`` of them.
        """
        if not self._start <= start <= self._end - least:
            self._fill(start)
        if self._end - start < least:
            raise DamagedFileError("is truncated")
        return self._buffer[start - self._start : min(end, self._end) - self._start]

    def _fill(self, start: int) -> None:
        self._start = self._end = start
        while rest := len(self._buffer) - (self._end - start):
            target = self._buffer[len(self._buffer) - rest :]
            count = os.preadv(self._descriptor, [target], self._end)
            if count == 0:
                return
            self._end += count


def _digest(descriptor: int, size: int) -> bytes:
    """The digest of the first bytes of a file, in hexadecimal.

    Blocks are seen as matrices of 64-bit words, and SHA-256 is computed of the sums of their rows
    and of their columns. That is ten times faster than of the bytes themselves. A change of one
    word changes two sums for certain; changes of several go unnoticed only where they cancel in
    every row and in every column.
    """
    digest = hashlib.sha256(size.to_bytes(8, "little"))
    pieces = _Pieces(descriptor)
    for offset in range(0, size, _PIECE):
        end = min(offset + _PIECE, size)
        piece = pieces.get(offset, end, end - offset)
        whole = len(piece) // _BLOCK * _BLOCK
        digest.update(_sums(piece[:whole], _BLOCK))
        if whole < len(piece):
            rest = bytes(piece[whole:]) + bytes(-len(piece) % (8 * _ROW))
            digest.update(_sums(rest, len(rest)))
    return digest.hexdigest().encode()


def _sums(content: bytes | memoryview, block: int) -> bytes:
    """Of each block the sums of its rows and of its columns."""
    words = np.frombuffer(content, "<u8").reshape(-1, block // (8 * _ROW), _ROW)
    return np.concatenate((words.sum(2), words.sum(1)), axis=1).tobytes()


def _require_plain(archive: zipfile.ZipFile, size: int) -> None:
    """Check that the members are stored as they are, which is how ``torch.save`` writes them."""
    members = archive.infolist()
    if any(x.compress_type != zipfile.ZIP_STORED or x.flag_bits & 1 for x in members):
        raise DamagedFileError(
            "is refused: it has compressed or encrypted members, which torch.save never writes"
        )
    if sum(member.file_size for member in members) > size:
        raise DamagedFileError("is refused: it has members that are larger than the file")


def _require_checksums(descriptor: int, members: list[zipfile.ZipInfo]) -> None:
    # All are zero with torch.serialization.set_crc32_options(False): there are none.
    if not any(member.CRC for member in members):
        return
    pieces = _Pieces(descriptor)
    for member in sorted(members, key=lambda member: member.header_offset):
        _require_checksum(pieces, member)


def _require_checksum(pieces: _Pieces, member: zipfile.ZipInfo) -> None:
    """Compare the checksum of a stored member."""
    start = member.header_offset + _LOCAL_HEADER.size
    header = pieces.get(member.header_offset, start, _LOCAL_HEADER.size)
    signature, name_length, extra_length = _LOCAL_HEADER.unpack(header)
    start += name_length + extra_length
    end, checksum = start + member.file_size, 0
    while start < end:
        content = pieces.get(start, end)
        checksum = crc32(content, checksum)
        start += len(content)
    if signature != _ZIP_SIGNATURE or checksum != member.CRC:
        raise DamagedFileError(f"is damaged: Bad CRC-32 for file {member.filename!r}")
