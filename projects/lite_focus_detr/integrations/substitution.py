"""Exchange of what the ``forward`` of a module in place does.

A module that is substituted has the same weights, hooks, name and place in its model. Only its
class is another one: a subclass of its own, with the same name and another ``forward``. So
``isinstance``, ``state_dict``, ``copy.deepcopy``, pickling and ``torch.compile`` go on to work, and
giving the class back restores the module.
"""

from __future__ import annotations

from functools import cache
from typing import Any, Protocol

from torch import nn


class Substitute(Protocol):
    """Another ``forward`` for modules of a class. Equal substitutes do the same."""

    def __hash__(self) -> int: ...

    def members(self, original: type[nn.Module]) -> dict[str, Any]:
        """What the subclass of ``original`` overrides."""


@cache
def _substituted_class(original: Any, substitute: Substitute) -> Any:
    members = {
        "__module__": original.__module__,
        "__qualname__": original.__qualname__,
        "__doc__": original.__doc__,
        "__reduce_ex__": _reduce,
        "_substituted": (original, substitute),
        **substitute.members(original),
    }
    return type(original)(original.__name__, (original,), members)


def _reduce(module: Any, protocol: int) -> tuple[Any, ...]:
    """Copies and pickles are substituted as well; the class itself cannot be found by its name."""
    original, substitute = module._substituted
    reduced = super(type(module), module).__reduce_ex__(protocol)
    return (_new, (original, substitute), *reduced[2:])


def _new(original: Any, substitute: Substitute) -> Any:
    kind = _substituted_class(original, substitute)
    return kind.__new__(kind)


def is_substituted(module: nn.Module) -> bool:
    """Whether the ``forward`` of a module has been exchanged."""
    return "_substituted" in vars(type(module))


def substitute_module(module: nn.Module, substitute: Substitute) -> None:
    """Exchange the ``forward`` of a module."""
    kind: Any = type(module)
    module.__class__ = _substituted_class(kind, substitute)


def restore_module(module: nn.Module) -> None:
    """Give a substituted module its own class back.

    Raises:
        RuntimeError: its class has been exchanged once more since.
    """
    if not is_substituted(module):
        raise RuntimeError(
            f"The class of {type(module).__name__} was changed after accelerate(); undo that first"
        )
    module.__class__ = type(module)._substituted[0]  # type: ignore[attr-defined]
