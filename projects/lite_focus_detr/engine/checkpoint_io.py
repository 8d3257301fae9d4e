"""Reading checkpoint files without executing anything in them, and writing them atomically."""

from __future__ import annotations

import os
import pickle
import re
import struct
import zipfile
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import IO, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from .checkpoint_digest import DamagedFileError, append_digest, require_intact, require_plain
from .restricted_pickle import TORCH_GLOBALS, ArrayUnpickler

_UNREADABLE = (
    pickle.UnpicklingError,
    zipfile.BadZipFile,
    struct.error,
    EOFError,
    RuntimeError,
    LookupError,
    AttributeError,
    TypeError,
    ValueError,
    OSError,
    ArithmeticError,
    AssertionError,
    MemoryError,
    SafetensorError,
)
# From this size on a file is compared with its digest or checksums while it is read.
_LARGE = 1 << 22


class WriteError(OSError):
    """A file could not be written; an earlier one of its name is whole."""


TRY_AGAIN = "earlier files are intact: free some space and try again"


def read_checkpoint(path: str, *, mmap: bool = False) -> dict[str, Any]:
    """Read a file of tensors, arrays and plain containers onto the CPU.

    Files of this project carry a digest, those of ``torch.save`` a checksum for each tensor. They
    are compared, by other threads while a large file is read, and nothing of a file that is damaged
    is returned.

    Args:
        path: local file; ``.pkl`` is read as a pickle of NumPy arrays, ``.safetensors`` by that
            library, anything else by ``torch.load(weights_only=True)``, which also accepts
            ``argparse.Namespace``.
        mmap: map the tensors from the file instead of reading them, and compare nothing; only for
            files written by this project, to find out cheaply what one holds besides tensors.

    Raises:
        OSError: the file cannot be opened.
        ValueError: the file is truncated, damaged, not a checkpoint, wants to import something that
            could execute code, or would become much larger in memory than it is. Nothing in it has
            been executed.
    """
    if os.path.exists(path) and not os.path.isfile(path):
        raise ValueError(f"{path} is a folder or a device, not a file")
    with open(path, "rb") as file:
        try:
            data = _read(file, path, mmap=True) if mmap else _read_checked(file, path)
        except _UNREADABLE as error:
            raise ValueError(_explain(path, error)) from error
    if not isinstance(data, dict):
        raise ValueError(
            f"{path} holds a {type(data).__name__}, not a dictionary of tensors; "
            "save the model's state_dict()"
        )
    for name, tensor in named_tensors(data):
        if _memory(tensor) > os.path.getsize(path):
            raise ValueError(
                f"{path} is refused: {name} of shape {tuple(tensor.shape)} is larger than the file"
            )
    return data


def _read(file: IO[bytes], path: str, *, mmap: bool) -> Any:
    """The content of a file, whatever its format."""
    if path.endswith(".pkl"):
        return ArrayUnpickler(file, encoding="latin1").load()
    if path.endswith(".safetensors"):
        return load_file(path)  # numbers alone, the format knows nothing else
    with torch.serialization.safe_globals(TORCH_GLOBALS):
        return torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)


def _read_checked(file: IO[bytes], path: str) -> Any:
    """The same, of a file that is not damaged."""
    if os.path.getsize(path) < _LARGE:
        require_intact(path)
        require_plain(path)
        return _read(file, path, mmap=False)
    with ThreadPoolExecutor(1) as beside:
        intact = beside.submit(require_intact, path)
        try:
            require_plain(path)
            return _read(file, path, mmap=False)
        finally:
            intact.result()  # damage explains whatever else was found


def named_tensors(contents: Mapping[str, Any]) -> Iterator[tuple[str, Tensor]]:
    """All tensors in dictionaries, lists and tuples, each with its place, such as ``model.weight``.

    Args:
        contents: of a checkpoint; may contain itself.
    """
    seen: set[int] = set()
    pending: list[tuple[str, Any]] = [("", contents)]
    while pending:
        place, value = pending.pop()
        if isinstance(value, Tensor):
            yield place, value
        elif isinstance(value, (Mapping, list, tuple)) and id(value) not in seen:
            seen.add(id(value))
            items = value.items() if isinstance(value, Mapping) else enumerate(value)
            children = [(f"{place}.{key}".lstrip("."), child) for key, child in items]
            pending += reversed(children)


def _memory(tensor: Tensor) -> int:
    """Bytes of a copy: a view may repeat one element any number of times."""
    return tensor.numel() * tensor.element_size()


def _explain(path: str, error: BaseException) -> str:
    if isinstance(error, DamagedFileError):
        return f"{path} {error}; use another copy of it, or an earlier checkpoint"
    imported = re.search(r"GLOBAL:? ([\w.]+)", str(error))
    if imported:
        return (
            f"{path} is refused: it wants to import {imported.group(1)}, which could execute code; "
            "checkpoints may hold only tensors, arrays and plain containers"
        )
    return (
        f"{path} ({os.path.getsize(path)} bytes) is truncated or not a checkpoint; "
        "copy or download it again"
    )


def write_checkpoint(path: str, contents: Mapping[str, Any], *, remedy: str = TRY_AGAIN) -> None:
    """Write a checkpoint, in one step and with a digest that ``read_checkpoint`` compares.

    Args:
        path: the file to create or replace; its folder must exist.
        contents: tensors and plain containers.
        remedy: what to do if it cannot be written.

    Raises:
        WriteError: the file could not be written; no partial file is left.
    """

    def write(file: IO[bytes]) -> None:
        torch.save(contents, file)
        append_digest(file)

    write_atomically(path, write, remedy=remedy)


def write_atomically(
    path: str, write: Callable[[IO[bytes]], object], *, remedy: str = TRY_AGAIN
) -> None:
    """Replace a file in one step: after a crash or a full disk the old one is still whole.

    Args:
        path: the file to create or replace; its folder must exist.
        write: writes the content to the binary file that it is given, which it can also read.
        remedy: what to do if it cannot be written.

    Raises:
        WriteError: the content could not be written; no partial file is left.
    """
    folder = os.path.dirname(path) or "."
    if not os.path.isdir(folder):
        raise WriteError(f"could not write {path}: there is no folder {folder}; create it")
    partial = f"{path}.tmp{os.getpid()}"
    try:
        with open(partial, "w+b") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except (OSError, RuntimeError) as error:
        reason = next(iter(str(error).splitlines()), repr(error))
        raise WriteError(f"could not write {path} ({reason}); {remedy}") from error
    finally:
        if os.path.exists(partial):
            os.remove(partial)


def remove_partial_files(folder: str) -> None:
    """Remove what :func:`write_atomically` of killed processes has left in a folder.

    Args:
        folder: that no process writes to.
    """
    for entry in os.scandir(folder):
        if re.search(r"\.tmp\d+$", entry.name) and entry.is_file(follow_symlinks=False):
            os.remove(entry.path)
