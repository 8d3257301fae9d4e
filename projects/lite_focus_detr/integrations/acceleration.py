"""Deformable attention of models that somebody else wrote, with the operators of this package."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from types import TracebackType

from torch import nn

from .recognition import looks_like_attention, recognise_attention
from .sampling_core import recognise_core_module
from .substitution import Substitute, is_substituted, restore_module, substitute_module

logger = logging.getLogger(__name__)


class Acceleration:
    """What :func:`accelerate` has done to a model; as a context manager it ends with the block."""

    def __init__(self, modules: dict[str, nn.Module], skipped: dict[str, str]) -> None:
        """
        Args:
            modules: those that have been replaced, by their names in the model.
            skipped: why modules that look like deformable attention were left alone, by their
                names.
        """
        self._modules = modules
        self.skipped = skipped

    @property
    def replaced(self) -> list[str]:
        """Names of the modules that compute with the operators; empty after :meth:`undo`."""
        return list(self._modules)

    def undo(self) -> None:
        """Give every module its own code back. Weights have not been touched."""
        while self._modules:
            name = next(reversed(self._modules))
            restore_module(self._modules[name])
            del self._modules[name]

    def __enter__(self) -> Acceleration:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.undo()


def accelerate(model: nn.Module) -> Acceleration:
    """Compute the multi-scale deformable attention of any model with the operators, in place.

    Attention modules are found by their structure, whatever the name of their class: layers
    ``sampling_offsets`` and ``attention_weights``, or a sampling function of values, locations and
    weights. A module is replaced only if it agrees with the operators on a small random input, in
    its outputs and its gradients. Weights, hooks and names of the modules stay what they are. Calls
    that a module can answer and the operators cannot go to the module's own code, as do all on
    devices without native operators.

    Args:
        model: any module, in any mode, on any device.

    Returns:
        The names of the replaced modules and the way back. Modules that look like deformable
        attention and compute something else, such as the ``discrete`` method of RT-DETRv2, are left
        alone; a warning of the log and ``skipped`` name them with the reason.

    Raises:
        ValueError: no module of the model looks like multi-scale deformable attention.
    """
    substitutes, skipped = _search(model)
    if not substitutes and not skipped:
        raise ValueError(
            f"{type(model).__name__} has no multi-scale deformable attention: no module with the "
            "layers sampling_offsets and attention_weights, and none that samples values at "
            "sampling_locations"
        )
    for name, reason in skipped.items():
        logger.warning("%s is left as it is: %s", name or type(model).__name__, reason)
    modules = {name: model.get_submodule(name) for name in substitutes}
    for name, module in modules.items():
        substitute_module(module, substitutes[name])
    return Acceleration(modules, skipped)


def _search(model: nn.Module) -> tuple[dict[str, Substitute], dict[str, str]]:
    """Substitutes, and why there is none for a module that looks like attention, by its name."""
    substitutes: dict[str, Substitute] = {}
    skipped: dict[str, str] = {}
    accelerated: list[str] = []
    for name, module in model.named_modules():
        if _inside(name, [*substitutes, *accelerated]):
            continue
        if is_substituted(module):
            accelerated.append(name)
        found = _substitute_for(module)
        if isinstance(found, str):
            skipped[name] = found
        elif found is not None:
            substitutes[name] = found
    return substitutes, {
        name: why for name, why in skipped.items() if not _around(name, substitutes)
    }


def _inside(name: str, others: Iterable[str]) -> bool:
    return any(other == "" or name.startswith(f"{other}.") for other in others)


def _around(name: str, others: dict[str, Substitute]) -> bool:
    return any(name == "" or other.startswith(f"{name}.") for other in others)


def _substitute_for(module: nn.Module) -> Substitute | str | None:
    """A substitute, or why there is none, or None for what is no deformable attention."""
    if is_substituted(module):
        return "it is accelerated already"
    if "forward" in vars(module):
        return "its forward was replaced before" if looks_like_attention(module) else None
    if looks_like_attention(module):
        return recognise_attention(module)
    return recognise_core_module(module)
