"""Configuration files as data: local, or with a hash, and no larger than they look."""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from typing import IO, Any

import yaml
from detectron2.config import CfgNode

from .download import download, known_hash

_REMOTE_BASE = "REMOTE_BASE"
_MAX_BYTES = 1 << 20
# Aliases of aliases multiply: thirty lines could fill any memory.
_MAX_ALIASES = 16
_HASH_DIGITS = 64


def config_reader(options: Sequence[Any]) -> type[CfgNode]:
    """The class whose ``load_yaml_with_base`` reads a configuration.

    Args:
        options: alternating keys and values of the command line; with ``REMOTE_BASE True`` files in
            ``_BASE_`` may be URLs.
    """
    given = dict(zip(options[::2], options[1::2], strict=False))
    return _RemoteReader if str(given.get(_REMOTE_BASE)) == "True" else _LocalReader


def parse_yaml(text: str, place: str) -> Any:
    """The data in a text; tags that make objects are refused by a ``yaml.YAMLError``.

    Args:
        text: YAML.
        place: what to call it in errors.

    Raises:
        ValueError: the text would become much larger than it is.
        yaml.YAMLError: it is not valid.
    """
    if len(text) > _MAX_BYTES:
        raise ValueError(f"{place} is refused: it is larger than {_MAX_BYTES >> 20} MiB")
    _require_few_aliases(text, place)
    try:
        return yaml.safe_load(text)
    except (ValueError, RecursionError) as error:  # of dates that are none, of endless brackets
        raise yaml.YAMLError(str(error)) from error


class _LocalReader(CfgNode):
    @classmethod
    def _open_cfg(cls, filename: str) -> IO[str]:
        """Called by the base class for a file and for those in its ``_BASE_``."""
        text = _read(cls._local_path(filename))
        _require_few_aliases(text, filename)
        return io.StringIO(text)

    @classmethod
    def _local_path(cls, filename: str) -> str:
        if "://" in filename:
            raise ValueError(
                f"the configuration file {filename} is not local: download and read it, or give "
                f"{_REMOTE_BASE} True on the command line to take it from there in _BASE_"
            )
        return filename


class _RemoteReader(_LocalReader):
    @classmethod
    def _local_path(cls, filename: str) -> str:
        if "://" not in filename:
            return filename
        if len(known_hash(filename)) < _HASH_DIGITS:
            raise ValueError(
                f"the configuration file {filename} needs its hash: end it with #sha256= and "
                f"{_HASH_DIGITS} digits"
            )
        return download(filename)


def _require_few_aliases(text: str, place: str) -> None:
    if "*" not in text:
        return
    if sum(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text)) > _MAX_ALIASES:
        raise ValueError(f"{place} is refused: it has more than {_MAX_ALIASES} YAML aliases")


def _read(path: str) -> str:
    if os.path.exists(path) and not (os.path.isfile(path) or os.path.isdir(path)):
        raise OSError(f"{path} is a device, not a file")
    with open(path, encoding="utf-8") as file:
        text = file.read(_MAX_BYTES + 1)
    if len(text) > _MAX_BYTES:
        raise ValueError(f"{path} is refused: it is larger than {_MAX_BYTES >> 20} MiB")
    return text
