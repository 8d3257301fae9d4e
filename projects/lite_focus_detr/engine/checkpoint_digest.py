"""Damage to checkpoint files: a digest over every byte of our own, the checksums of all others.

Neither protects from somebody who changes a file on purpose and computes them anew. They find what
disks, copies and networks do to files.
"""

from __future__ import annotations

import hashlib
import os
import struct
import zipfile
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import IO

import numpy as np

# The digest is the comment at the end of the zip archive that a checkpoint is: other programs read
# the archive as if it were not there.
_MARK = b"lite-focus-detr digest "
_HEX_DIGITS = 64
_COMMENT_SIZE = len(_MARK) + _HEX_DIGITS
# The last record of an archive without a comment; its last two bytes are the comment's length.
_END_RECORD = struct.Struct("<4s4H2LH")
_END_SIGNATURE = b"PK\x05\x06"
_ZIP_SIGNATURE = b"PK\x03\x04"

_BLOCK = 1 << 20
_ROW = 512  # words of 8 bytes
# More threads than this wait for the memory.
_THREADS = min(4, os.cpu_count() or 1)


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


def require_intact(path: str) -> None:
    """Check the digest of a file of this project, or what a zip archive says of its members.

    Other formats, those of old PyTorch and of pickles, have nothing that could be checked.

    Args:
        path: of a file that can be read.

    Raises:
        DamagedFileError: some bit of the file has changed, or its members are compressed or
            overlap: an archive like that may become many times larger when it is read.
        zipfile.BadZipFile: it begins like an archive, but is none.
    """
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        head = file.read(len(_ZIP_SIGNATURE))
        file.seek(max(0, size - _COMMENT_SIZE))
        comment = file.read()
        if comment.startswith(_MARK):
            digest = _digest(file.fileno(), size - _HEX_DIGITS)
            if digest != comment[len(_MARK) :]:
                raise DamagedFileError("is damaged: its content does not fit its digest")
        elif head == _ZIP_SIGNATURE:
            with zipfile.ZipFile(file) as archive:
                _require_plain(archive, size)
                _require_checksums(archive)


def _digest(descriptor: int, size: int) -> bytes:
    """The digest of the first bytes of a file, in hexadecimal.

    Blocks are seen as matrices of 64-bit words, and SHA-256 is computed of the sums of their rows
    and of their columns. That is ten times faster than of the bytes themselves. A change of one
    word changes two sums for certain; changes of several go unnoticed only where they cancel in
    every row and in every column.
    """
    digest = hashlib.sha256(size.to_bytes(8, "little"))
    sums = partial(_sums_of_block, descriptor, size)
    offsets = range(0, size, _BLOCK)
    with ThreadPoolExecutor(_THREADS) as pool:
        for rows, columns in (pool.map if len(offsets) > 1 else map)(sums, offsets):
            digest.update(rows)
            digest.update(columns)
    return digest.hexdigest().encode()


def _sums_of_block(descriptor: int, size: int, offset: int) -> tuple[bytes, bytes]:
    block = os.pread(descriptor, min(_BLOCK, size - offset), offset)
    block += bytes(-len(block) % (8 * _ROW))
    words = np.frombuffer(block, "<u8").reshape(-1, _ROW)
    return words.sum(1).tobytes(), words.sum(0).tobytes()


def _require_plain(archive: zipfile.ZipFile, size: int) -> None:
    """Check that the members are stored as they are, which is how ``torch.save`` writes them."""
    members = archive.infolist()
    if archive.comment:
        raise DamagedFileError("is damaged in its last bytes")
    if any(x.compress_type != zipfile.ZIP_STORED or x.flag_bits & 1 for x in members):
        raise DamagedFileError(
            "is refused: it has compressed or encrypted members, which torch.save never writes"
        )
    if sum(member.file_size for member in members) > size:
        raise DamagedFileError("is refused: it has members that are larger than the file")


def _require_checksums(archive: zipfile.ZipFile) -> None:
    # All are zero with torch.serialization.set_crc32_options(False): there are none.
    if not any(member.CRC for member in archive.infolist()):
        return
    with ThreadPoolExecutor(_THREADS) as pool:
        for _ in pool.map(partial(_read_member, archive), archive.infolist()):
            pass


def _read_member(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> None:
    """Read a member to its end, where its checksum is compared."""
    try:
        with archive.open(member) as content:
            while content.read(_BLOCK):
                pass
    except zipfile.BadZipFile as error:
        raise DamagedFileError(f"is damaged: {error}") from error
