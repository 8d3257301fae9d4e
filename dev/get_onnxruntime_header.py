"""Fetch the header that the operators for ONNX Runtime are compiled with, from Debian.

    python dev/get_onnxruntime_header.py

It is unpacked to build/onnxruntime, where setup.py looks for it, if the package is the one whose
hash stands here. ``make env`` calls this; without the header everything else is built.
"""

# ruff: noqa: T201
from __future__ import annotations

import hashlib
import http.client
import io
import sys
import tarfile
import urllib.request
from pathlib import Path, PurePosixPath

ADDRESS = (
    "http://deb.debian.org/debian/pool/main/o/onnxruntime/"
    "libonnxruntime-dev_1.21.0+dfsg-1_amd64.deb"
)
SHA256 = "14f7d959d5deacbcf1504830d4189f91fc67382b399ed9ae9d3aa9c4050ced08"
HEADER = "onnxruntime_c_api.h"
TARGET = Path(__file__).resolve().parents[1] / "build" / "onnxruntime" / HEADER
SECONDS = 20


def members(archive: bytes) -> dict[str, bytes]:
    """The files of an ``ar`` archive, which a Debian package is."""
    found = {}
    start = len(b"!<arch>\n")
    while start + 60 <= len(archive):
        name, size = archive[start : start + 16], int(archive[start + 48 : start + 58])
        start += 60
        found[name.decode().rstrip(" /")] = archive[start : start + size]
        start += size + size % 2
    return found


def read_header(package: bytes, sha256: str = SHA256) -> bytes:
    """The header in a Debian package; raises ValueError if it is not the one of the hash."""
    found = hashlib.sha256(package).hexdigest()
    if found != sha256:
        raise ValueError(f"the package has the SHA-256 {found}, not {sha256}")
    with tarfile.open(fileobj=io.BytesIO(members(package)["data.tar.xz"])) as files:
        for entry in files:
            content = files.extractfile(entry)
            if content is not None and PurePosixPath(entry.name).name == HEADER:
                return content.read()
    raise ValueError(f"the package has no {HEADER}")


def main() -> int:
    """Exit status: 1 if the header is not there."""
    try:
        with urllib.request.urlopen(ADDRESS, timeout=SECONDS) as response:
            header = read_header(response.read())
    except (OSError, ValueError, http.client.HTTPException) as error:
        print(
            f"The operators for ONNX Runtime will not be built: {ADDRESS}: {error}", file=sys.stderr
        )
        return 1
    TARGET.parent.mkdir(parents=True, exist_ok=True)
    TARGET.write_bytes(header)
    print(TARGET)
    return 0


if __name__ == "__main__":
    sys.exit(main())
