"""Where the file is that ``MODEL.WEIGHTS`` or ``--weights`` names."""

from __future__ import annotations

import os
from http.client import HTTPException
from urllib.parse import urlsplit

from detectron2.checkpoint.catalog import ModelCatalog
from detectron2.utils.file_io import PathManager

from ..config.download import download
from ..config.installed_file import SCHEME, installed_file
from ..config.trained_weights import trained_names, trained_weights_file
from .checkpoint_io import read_checkpoint

_DETECTRON2_FILES = "https://dl.fbaipublicfiles.com/detectron2/"


def find_weights(name: str) -> str:
    """Path of a local file of weights, which is downloaded when needed.

    Args:
        name: file, address, or ``detectron2://``, ``catalog://`` or ``pip://`` and a name. An
            address may have a query, and end with ``#sha256=`` and the hash of the file.
            detectron2's query ``matching_heuristics`` is ignored. Or the name of weights that
            this project has trained and brings along.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it cannot be downloaded, or what the server sends is no checkpoint.
    """
    if "://" in name:
        return _fetch(_without_heuristics(name))
    local = name.split("?")[0]
    if os.path.isfile(local):
        return local
    if name in trained_names():
        return trained_weights_file(name)
    raise FileNotFoundError(
        f"the checkpoint {local} does not exist; check MODEL.WEIGHTS. Brought along are "
        f"{' and '.join(trained_names())}"
    )


def _without_heuristics(url: str) -> str:
    parts = urlsplit(url)
    kept = [x for x in parts.query.split("&") if not x.startswith("matching_heuristics=")]
    return parts._replace(query="&".join(kept)).geturl()


def _fetch(url: str) -> str:
    scheme, _, name = url.partition("://")
    if scheme == "catalog":
        url = _catalogued(name)
    elif scheme == "detectron2":
        url = f"{_DETECTRON2_FILES}{name}"
    elif scheme == SCHEME:
        return installed_file(url)
    elif scheme not in ("http", "https"):
        return str(PathManager.get_local_path(url))
    try:
        return download(url, _require_checkpoint)
    except (OSError, HTTPException, ValueError) as error:
        raise ValueError(
            f"cannot download {url} (MODEL.WEIGHTS): {error}; download it elsewhere and give "
            "the local file, or set MODEL.WEIGHTS ''"
        ) from error


def _catalogued(name: str) -> str:
    try:
        return str(ModelCatalog.get(name))
    except (KeyError, RuntimeError) as error:
        raise ValueError(
            f"MODEL.WEIGHTS catalog://{name} is not in detectron2's catalog of models"
        ) from error


def _require_checkpoint(path: str) -> None:
    """Check what was downloaded; its present name means nothing to the user."""
    try:
        read_checkpoint(path)
    except ValueError as error:
        raise ValueError(str(error).replace(path, "what the server sends")) from error
