"""Files that a configuration names by their URL: downloaded, checked, kept only when right."""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
import urllib.request
from collections.abc import Callable
from urllib.parse import urlsplit

from iopath.common.file_io import file_lock, get_cache_dir

_TIMEOUT = 60  # seconds without a byte
_BLOCK = 1 << 20
# How PyTorch, torchvision and OpenMMLab name files: name-0123abcd.pth, the begin of the SHA-256.
# A run of decimal digits may as well be a date.
_HASH_IN_NAME = re.compile(r"-(?=\d*[a-f])([0-9a-f]{8,64})\.\w+$")
_HASH_IN_FRAGMENT = re.compile(r"sha256=([0-9a-f]{64})")


def known_hash(url: str) -> str:
    """The SHA-256 of a file, or its first digits, as far as its URL says it; empty if it does not.

    Args:
        url: ends with ``#sha256=`` and 64 digits, or its file is named ``name-0123abcd.pth``.

    Raises:
        ValueError: there is a fragment, but of another form.
    """
    parts = urlsplit(url)
    if parts.fragment:
        given = _HASH_IN_FRAGMENT.fullmatch(parts.fragment)
        if given is None:
            raise ValueError(f"{url} must end with #sha256= and the 64 digits of the file's hash")
        return given.group(1)
    named = _HASH_IN_NAME.search(parts.path)
    return named.group(1) if named else ""


def download(url: str, check: Callable[[str], object] | None = None) -> str:
    """Path of a local copy of a file, below ``FVCORE_CACHE``, by default ``~/.torch/iopath_cache``.

    The copy is made once. It has the size that the server announces and the hash that the URL
    names, otherwise it is not kept.

    Args:
        url: see :func:`known_hash`.
        check: called with the path of a new file, of which it raises a ``ValueError`` if its
            content is wrong.

    Raises:
        ValueError: the content is wrong, or the URL is.
        OSError: the server cannot be reached, or sent less than it has announced.
        http.client.HTTPException: likewise.
    """
    expected = known_hash(url)
    source = url.partition("#")[0]
    name = os.path.basename(urlsplit(source).path)
    if urlsplit(source).scheme not in ("http", "https") or name in ("", ".", ".."):
        raise ValueError(f"{url} is not the address of a file, https://host/path/file")
    # Files of one name on two servers are two files.
    folder = os.path.join(get_cache_dir(), hashlib.sha256(source.encode()).hexdigest()[:16])
    path = os.path.join(folder, name[-200:])
    with file_lock(path):
        if os.path.isfile(path) and (not expected or file_sha256(path).startswith(expected)):
            return path
        with tempfile.TemporaryDirectory(dir=folder) as partial:
            fetched = os.path.join(partial, os.path.basename(path))
            fetch(source, fetched)
            found = file_sha256(fetched) if expected else ""
            if not found.startswith(expected):
                raise ValueError(f"what {source} sends has the SHA-256 {found}, not {expected}")
            if check is not None:
                check(fetched)
            os.replace(fetched, path)
    return path


def fetch(url: str, path: str, max_bytes: int | None = None) -> None:
    """Download to a file.

    Args:
        url: of the file.
        path: to write to.
        max_bytes: no more is read.

    Raises:
        OSError: the server cannot be reached, sent less than it has announced, or too much.
    """
    with urllib.request.urlopen(url, timeout=_TIMEOUT) as response, open(path, "wb") as file:
        while block := response.read(_BLOCK):
            file.write(block)
            if max_bytes is not None and file.tell() > max_bytes:
                raise OSError(f"it is larger than {max_bytes >> 20} MiB")
        announced = response.headers.get("Content-Length")
    size = os.path.getsize(path)
    if not size or (announced is not None and size != int(announced)):
        raise OSError(f"only {size} of {announced or 'some'} bytes arrived")


def file_sha256(path: str) -> str:
    """Hexadecimal SHA-256 of a file."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()
