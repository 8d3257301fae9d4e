"""The sampling inside of attention modules whose other parts are not known.

Most implementations keep the sampling apart: a function, or a module without weights, of values,
shapes of levels, sampling locations and attention weights. It can be exchanged alone; everything
around it stays what it is.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import FunctionType
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .. import ops
from . import arguments, probe
from .arguments import Parameters


class CoreRoles(NamedTuple):
    """Which parameter of a sampling function is what; None where there is none for it."""

    value: str
    shapes: str
    locations: str
    weights: str
    num_points: str | None  #: list of P of all levels; its points then share one axis

    @classmethod
    def of(cls, parameters: Parameters) -> CoreRoles | None:
        """By the names; None where something that is needed is not among them."""
        roles = (("value",), arguments.SHAPES, arguments.LOCATIONS, arguments.WEIGHTS)
        value, shapes, locations, weights = map(parameters.first, roles)
        if value is None or shapes is None or locations is None or weights is None:
            return None
        return cls(value, shapes, locations, weights, parameters.first(arguments.NUM_POINTS))


@dataclass(frozen=True)
class SamplingCore:
    """How to compute a sampling function."""

    parameters: Parameters
    roles: CoreRoles

    def serves(self, given: Mapping[str, Any]) -> bool:
        """Whether a call is one that was tried out, on a device with native operators."""
        roles = self.roles
        tensors = [given.get(name) for name in (roles.value, roles.locations, roles.weights)]
        known = (*(name for name in roles if name is not None), *arguments.UNUSED)
        if not all(isinstance(tensor, Tensor) for tensor in tensors):
            return False
        return (
            given.get(roles.shapes) is not None
            and given[roles.locations].dim() == (6 if roles.num_points is None else 5)
            and self.parameters.only(known, given)
            and ops.backend(given[roles.value].device) != "reference"
        )

    def sample(self, given: Mapping[str, Any]) -> Tensor:
        """The result of the function with the arguments ``given`` by name."""
        roles = self.roles
        value: Tensor = given[roles.value]
        locations: Tensor = given[roles.locations]
        weights: Tensor = given[roles.weights]
        if roles.num_points is not None:
            locations, weights = _per_level(locations, weights, given[roles.num_points])
        shapes = arguments.spatial_shapes(given[roles.shapes])
        output = ops.multi_scale_deformable_attention(value, shapes, locations, weights)
        # As grid_sample, which takes values and locations in the wider of their dtypes.
        return output.to(torch.promote_types(value.dtype, locations.dtype))


def _per_level(locations: Tensor, weights: Tensor, num_points: list[int]) -> tuple[Tensor, Tensor]:
    """From (B, Q, M, all points, ...) to (B, Q, M, L, P, ...), filled up with zero weights."""
    most = max(num_points)
    points = torch.split(locations, num_points, 3)
    shares = torch.split(weights, num_points, 3)
    return (
        torch.stack([F.pad(x, (0, 0, 0, most - x.shape[3])) for x in points], 3),
        torch.stack([F.pad(x, (0, most - x.shape[3])) for x in shares], 3),
    )


@dataclass(frozen=True)
class CoreModule:
    """Substitute for a module that only samples."""

    core: SamplingCore

    def members(self, original: type[nn.Module]) -> dict[str, Any]:
        """See :class:`Substitute`."""
        core, original_forward = self.core, original.forward

        def forward(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
            given = core.parameters.bind(args, kwargs)
            if not core.serves(given):
                return original_forward(module, *args, **kwargs)
            return core.sample(given)

        return {"forward": forward}


@dataclass(frozen=True)
class CoreFunction:
    """Substitute for a module whose ``forward`` calls a sampling function of its Python module."""

    core: SamplingCore
    name: str  #: of the function

    def members(self, original: type[nn.Module]) -> dict[str, Any]:
        """See :class:`Substitute`."""
        function = original.forward.__globals__[self.name]
        return {"forward": self.forward(original, otherwise=function)}

    def forward(self, original: type[nn.Module], otherwise: Callable[..., Any]) -> Any:
        """The ``forward`` of a class, which finds the core under the name of the function.

        Args:
            original: the class.
            otherwise: what to call where the core does not serve.
        """
        forward: Any = original.forward

        def sample(*args: Any, **kwargs: Any) -> Any:
            given = self.core.parameters.bind(args, kwargs)
            return (
                self.core.sample(given) if self.core.serves(given) else otherwise(*args, **kwargs)
            )

        scope = {**forward.__globals__, self.name: sample}
        # torch.compile would take the globals from the Python module of this name.
        scope.pop("__name__", None)
        same = FunctionType(
            forward.__code__, scope, forward.__name__, forward.__defaults__, forward.__closure__
        )
        same.__kwdefaults__ = forward.__kwdefaults__
        return functools.wraps(forward)(same)


def recognise_core_module(module: nn.Module) -> CoreModule | None:
    """How to compute a module that only samples; None for any other."""
    if next(module.parameters(), None) is not None:
        return None
    core = _recognise(type(module).forward, module.forward)
    return None if core is None else CoreModule(core)


def recognise_core_function(module: nn.Module) -> CoreFunction | None:
    """How to compute a module that calls a sampling function; None for any other."""
    forward = type(module).forward
    if not isinstance(forward, FunctionType):
        return None
    for name in forward.__code__.co_names:
        function = forward.__globals__.get(name)
        core = _recognise(function, function) if isinstance(function, FunctionType) else None
        if core is not None:
            return CoreFunction(core, name)
    return None


def _recognise(declared: Callable[..., Any], function: Callable[..., Any]) -> SamplingCore | None:
    """The core that a function computes, if its arguments have the names and a trial agrees."""
    parameters = arguments.parameters_of(declared)
    if parameters is None:
        return None
    roles = CoreRoles.of(parameters)
    if roles is None:
        return None
    core = SamplingCore(parameters, roles)
    try:
        with probe.plain_settings():
            given = _inputs(core)
            expected = probe.evaluate(function, given)
            actual = probe.evaluate(lambda **given: core.sample(given), given)
    except probe.FAILURES:
        return None
    difference = probe.difference([*actual[0], *actual[1]], [*expected[0], *expected[1]])
    return core if difference <= probe.TOLERANCE else None


def _inputs(core: SamplingCore) -> dict[str, Any]:
    """Small arguments by name."""
    random = probe.Probe()
    batch, queries, heads, channels = 2, 5, 3, 4
    num_points = [2, 3, 1] if core.roles.num_points else [2, 2, 2]
    shapes = probe.shapes_of_levels(len(num_points))
    points = (batch, queries, heads, sum(num_points))
    locations, weights = random.uniform(*points, 2), random.normal(*points)
    if core.roles.num_points is None:
        size = (batch, queries, heads, len(shapes), num_points[0])
        locations, weights = random.uniform(*size, 2), random.normal(*size)
    tokens = sum(height * width for height, width in shapes)
    given = {
        "value": random.normal(batch, tokens, heads, channels),
        "sampling_locations": locations,
        "attention_weights": weights,
        "num_points_list": num_points,
        "im2col_step": batch,
        **probe.shape_arguments(shapes),
    }
    return {name: given[name] for name in core.parameters.names if name in given}
