"""What pickles of checkpoints may hold: arrays, tensors and plain containers, nothing that runs."""

from __future__ import annotations

import argparse
import codecs
import collections
import pickle
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np

# The constructors of arrays and of their scalars are private and moved in NumPy 2; what an
# array reduces to is them, under any version.
_RECONSTRUCT = np.zeros(0).__reduce__()[0]
_SCALAR = np.float64(0).__reduce__()[0]
_ARRAY_GLOBALS = {
    f"{package}.multiarray.{name}": function
    for package in ("numpy.core", "numpy._core")
    for name, function in (("_reconstruct", _RECONSTRUCT), ("scalar", _SCALAR))
}
# Booleans, integers, floating-point and complex numbers, bytes and text.
_PLAIN_KINDS = "biufcSU"
# Those of numbers and of text; the others are of objects.
_PLAIN_FLAGS = {0, 8}


def _plain_dtype(name: str, align: bool = False, copy: bool = False) -> np.dtype[Any]:
    """The type of numbers or text that a pickle names, never one of objects or with fields."""
    if not isinstance(name, str) or np.dtype(name).kind not in _PLAIN_KINDS:
        raise pickle.UnpicklingError(f"unsupported GLOBAL numpy.dtype of {name!r}")
    return np.dtype(name, align, copy)


def _native_dtype(name: str, *_: bool) -> np.dtype[Any]:
    """The same, but NumPy's own instance, which ignores the state that a pickle gives it."""
    return _plain_dtype(name)


def _encode_latin1(text: str, encoding: str) -> bytes:
    """How Python 2 compatible pickles hold bytes; other encodings could multiply their size."""
    if encoding.lower() not in ("latin1", "latin-1"):
        raise pickle.UnpicklingError(f"unsupported GLOBAL _codecs.encode to {encoding!r}")
    return codecs.encode(text, "latin1")


_PICKLE_GLOBALS: dict[str, Any] = {
    **_ARRAY_GLOBALS,
    "numpy.ndarray": np.ndarray,
    "numpy.dtype": _plain_dtype,
    "_codecs.encode": _encode_latin1,
    "collections.OrderedDict": collections.OrderedDict,
}
#: For ``torch.load(weights_only=True)`` besides tensors: original releases keep their command line
#: (a Namespace) beside the weights, training states hold NumPy scalars; neither can run code.
TORCH_GLOBALS: list[Any] = [
    argparse.Namespace,
    (_native_dtype, "numpy.dtype"),
    *((_SCALAR, name) for name in _ARRAY_GLOBALS if name.endswith("scalar")),
    *(type(np.dtype(kind)) for kind in ("float32", "float64", "int32", "int64", "bool")),
]

_BUILD: Callable[[Any], None] = pickle._Unpickler.dispatch[pickle.BUILD[0]]


class ArrayUnpickler(pickle._Unpickler):
    """Unpickler of NumPy arrays and plain containers; every other import is refused.

    It is Python's own in Python: the one in C reserves memory for as many objects as a pickle of a
    few bytes claims to have.
    """

    stack: list[Any]
    dispatch: ClassVar[dict[int, Callable[[Any], None]]] = dict(pickle._Unpickler.dispatch)

    def find_class(self, module: str, name: str) -> Any:
        """Return what a pickle imports, if it is harmless."""
        try:
            return _PICKLE_GLOBALS[f"{module}.{name}"]
        except KeyError:
            raise pickle.UnpicklingError(f"unsupported GLOBAL {module}.{name}") from None

    def load_build(self) -> None:
        """Give an object its state, if arrays and containers have states like it."""
        instance, state = self.stack[-2:]
        if not _is_plain_state(instance, state):
            kind = type(instance)
            raise pickle.UnpicklingError(
                f"unsupported GLOBAL {kind.__module__}.{kind.__qualname__} with this state"
            )
        _BUILD(self)

    dispatch[pickle.BUILD[0]] = load_build


def _is_plain_state(instance: object, state: object) -> bool:
    """Whether a state is that of numbers. NumPy believes what it says about the memory it needs."""
    if isinstance(instance, collections.OrderedDict):
        return isinstance(state, dict)
    if not isinstance(state, tuple):
        return False
    if isinstance(instance, np.dtype):
        # (version, order of bytes, subarray, names, fields, size, alignment, flags)
        return len(state) in (7, 8) and not any(state[2:5]) and set(state[7:]) <= _PLAIN_FLAGS
    if isinstance(instance, np.ndarray):
        # (version, shape, type, Fortran order, content)
        dtypes = [item for item in state if isinstance(item, np.dtype)]
        return len(dtypes) == 1 and dtypes[0].kind in _PLAIN_KINDS
    return False
