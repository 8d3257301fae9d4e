"""Reading checkpoint files without executing anything in them, and writing them atomically."""

from __future__ import annotations

import argparse
import codecs
import collections
import os
import pickle
import re
from collections.abc import Callable
from typing import IO, Any

import numpy as np
import torch

# The constructors of arrays and of their scalars are private and moved in NumPy 2; what an
# array reduces to is them, under any version.
_RECONSTRUCT = np.zeros(0).__reduce__()[0]
_SCALAR = np.float64(0).__reduce__()[0]
_ARRAY_GLOBALS = {
    f"{package}.multiarray.{name}": function
    for package in ("numpy.core", "numpy._core")
    for name, function in (("_reconstruct", _RECONSTRUCT), ("scalar", _SCALAR))
}
_PICKLE_GLOBALS: dict[str, Any] = {
    **_ARRAY_GLOBALS,
    "numpy.ndarray": np.ndarray,
    "numpy.dtype": np.dtype,
    "_codecs.encode": codecs.encode,
    "collections.OrderedDict": collections.OrderedDict,
}
# Original releases keep their command line (a Namespace) beside the weights, training states
# hold NumPy scalars; neither can run code.
_TORCH_GLOBALS: list[Any] = [
    argparse.Namespace,
    np.dtype,
    *((_SCALAR, name) for name in _ARRAY_GLOBALS if name.endswith("scalar")),
    *(type(np.dtype(kind)) for kind in ("float32", "float64", "int32", "int64", "bool")),
]
_UNREADABLE = (
    pickle.UnpicklingError,
    EOFError,
    RuntimeError,
    LookupError,
    AttributeError,
    TypeError,
    ValueError,
    OSError,
)


class _ArrayUnpickler(pickle.Unpickler):
    """Unpickler of NumPy arrays and plain containers; every other import is refused."""

    def find_class(self, module: str, name: str) -> Any:
        """Return what a pickle imports, if it is harmless."""
        try:
            return _PICKLE_GLOBALS[f"{module}.{name}"]
        except KeyError:
            raise pickle.UnpicklingError(f"unsupported GLOBAL {module}.{name}") from None


def read_checkpoint(path: str, *, mmap: bool = False) -> dict[str, Any]:
    """Read a ``.pth`` or ``.pkl`` file of tensors, arrays and plain containers onto the CPU.

    Args:
        path: local file; ``.pkl`` is read as a pickle of NumPy arrays, anything else by
            ``torch.load(weights_only=True)``, which also accepts ``argparse.Namespace``.
        mmap: map the tensors from the file instead of reading them; only for files written by
            this project, to find out cheaply whether one is complete.

    Raises:
        OSError: the file cannot be opened.
        ValueError: the file is truncated, not a checkpoint, or wants to import something that
            could execute code. Nothing in it has been executed.
    """
    with open(path, "rb") as file:
        try:
            if path.endswith(".pkl"):
                data = _ArrayUnpickler(file, encoding="latin1").load()
            else:
                with torch.serialization.safe_globals(_TORCH_GLOBALS):
                    data = torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
        except _UNREADABLE as error:
            raise ValueError(_explain(path, error)) from error
    if not isinstance(data, dict):
        raise ValueError(
            f"{path} holds a {type(data).__name__}, not a dictionary of tensors; "
            "save the model's state_dict()"
        )
    return data


def _explain(path: str, error: BaseException) -> str:
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


def write_atomically(path: str, write: Callable[[IO[bytes]], object]) -> None:
    """Replace a file in one step: after a crash or a full disk the old one is still whole.

    Args:
        path: the file to create or replace; its folder must exist.
        write: writes the content to the binary file that it is given.

    Raises:
        OSError: the content could not be written; no partial file is left.
    """
    partial = f"{path}.tmp{os.getpid()}"
    try:
        with open(partial, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except (OSError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise OSError(
            f"could not write {path} ({reason}); earlier checkpoints are intact: "
            "free some space and continue with --resume"
        ) from error
    finally:
        if os.path.exists(partial):
            os.remove(partial)
