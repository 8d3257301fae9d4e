"""Recognition of deformable attention modules by their structure, confirmed by a trial.

Names tell which modules to look at and what their arguments are. What they do with them, the trial
tells: both the module and its substitute compute small random inputs, and a module is taken only
where outputs and gradients agree.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, NoReturn

from torch import nn

from . import arguments, probe
from .fused_attention import BOX_SCALE, FusedAttention, Roles
from .sampling_core import CoreFunction, recognise_core_function

_LAYERS = ("sampling_offsets", "attention_weights")
_HEADS = ("n_heads", "num_heads", "nheads", "nhead", "n_head", "heads", "num_attention_heads")
_LEVELS = ("n_levels", "num_levels", "num_feature_levels", "levels")
_POINTS_OF_LEVELS = ("num_points_list", "n_points_list")
#: Different from each other and from the usual numbers of levels and heads.
_BATCH, _QUERIES = 2, 5
#: What a trial brings: the difference of the results, or what the module raises.
_Outcome = float | str


def looks_like_attention(module: nn.Module) -> bool:
    """Whether a module has the layers that make deformable attention."""
    return all(isinstance(getattr(module, layer, None), nn.Module) for layer in _LAYERS)


def recognise_attention(module: nn.Module) -> FusedAttention | CoreFunction | str:
    """How to compute the module, as a whole or its sampling only, or why it is not known.

    Args:
        module: one that :func:`looks_like_attention`.
    """
    attention = _describe(module)
    core = recognise_core_function(module)
    if isinstance(attention, str):
        # The sampling is known, and what is around it stays what it is.
        return core or attention
    try:
        with probe.plain_settings():
            trial = _Trial(attention, module)
            found = trial.complete()
            if isinstance(found, str) and core is not None and trial.confirms(core):
                return core
            return found
    except probe.FAILURES as error:
        return f"it cannot be tried: {type(error).__name__}: {error}"


def _describe(module: nn.Module) -> FusedAttention | str:
    """What the names of arguments and attributes say."""
    parameters = arguments.parameters_of(type(module).forward)
    roles = None if parameters is None else Roles.of(parameters)
    heads, levels = _attribute(module, _HEADS), _attribute(module, _LEVELS)
    if parameters is None or roles is None:
        return "the arguments of its forward have none of the usual names"
    if not isinstance(heads, int) or not isinstance(levels, int):
        return "it does not tell its numbers of heads and levels under one of the usual names"
    num_points = tuple(_attribute(module, _POINTS_OF_LEVELS) or ())
    return FusedAttention(
        parameters=parameters,
        roles=roles,
        heads=heads,
        levels=levels,
        num_points=num_points if len(set(num_points)) > 1 else None,
        box_scale=float(getattr(module, "offset_scale", BOX_SCALE)),
        batch_first=bool(getattr(module, "batch_first", True)),
    )


def _attribute(module: nn.Module, names: tuple[str, ...]) -> Any:
    return next((getattr(module, name) for name in names if hasattr(module, name)), None)


class _Trial:
    """Runs of a module and of its substitutes on the same inputs."""

    def __init__(self, attention: FusedAttention, module: nn.Module) -> None:
        self.attention = attention
        self.original = type(module)
        self.random = probe.Probe()
        self.module: Any = self.random.copy_of(module)
        self.weights_axes = 0

    def complete(self) -> FusedAttention | str:
        """The attention with what only runs can tell, or why it does not agree."""
        attend = self.attend_as(self.attention)
        outcomes = {
            coordinates: self.compare_all(attend, coordinates=coordinates) for coordinates in (2, 4)
        }
        served = tuple(coordinates for coordinates, results in outcomes.items() if _agree(results))
        if not served:
            return _explain([result for results in outcomes.values() for result in results])
        attention = replace(self.attention, coordinates=served, weights_axes=self.weights_axes)
        if attention.roles.mask is None:
            return attention
        for padding in (True, False):
            masked = replace(attention, padding=padding)
            if _agree(self.compare_all(self.attend_as(masked), served[-1], masked=True)):
                return masked
        return attention

    def confirms(self, core: CoreFunction) -> bool:
        """Whether the module computes the same with the core, and always uses it."""
        forward = core.forward(self.original, otherwise=_not_served)

        def attend(**given: Any) -> Any:
            return forward(self.module, **given)

        return _agree([x for coordinates in (2, 4) for x in self.compare_all(attend, coordinates)])

    def attend_as(self, attention: FusedAttention) -> Callable[..., Any]:
        """The module computed as an attention, with the weights that the original returns."""

        def attend(**given: Any) -> Any:
            return replace(attention, weights_axes=self.weights_axes).attend(self.module, given)

        return attend

    def compare_all(
        self, attend: Callable[..., Any], coordinates: int, masked: bool = False
    ) -> list[_Outcome]:
        """Outcomes for one reference for all levels, and for one for each."""
        levels = sorted({1, self.attention.levels})
        return [self.compare(attend, self.inputs(coordinates, x, masked)) for x in levels]

    def compare(self, attend: Callable[..., Any], given: dict[str, Any]) -> _Outcome:
        """The difference of what the module and ``attend`` compute."""
        weights = list(self.module.parameters())
        try:
            expected, expected_grads = probe.evaluate(self.module.forward, given, weights)
        except probe.FAILURES as error:
            return f"{type(error).__name__}: {error}"
        self.weights_axes = expected[1].dim() if len(expected) == 2 else 0
        try:
            actual, actual_grads = probe.evaluate(attend, given, weights)
        except probe.FAILURES:
            return float("inf")
        return probe.difference(actual + actual_grads, expected + expected_grads)

    def inputs(self, coordinates: int, levels: int, masked: bool) -> dict[str, Any]:
        """Arguments of the module by name.

        Args:
            coordinates: of the reference points, 2 or 4.
            levels: for which there are references.
            masked: with a mask of the values.
        """
        attention, roles = self.attention, self.attention.roles
        shapes = probe.shapes_of_levels(attention.levels)
        tokens = sum(height * width for height, width in shapes)
        channels = self.module.sampling_offsets.in_features
        projection = getattr(self.module, "value_proj", None)
        query, position, identity = (
            self.random.normal(_BATCH, _QUERIES, channels) for _ in range(3)
        )
        value = self.random.normal(_BATCH, tokens, getattr(projection, "in_features", channels))
        given: dict[str | None, Any] = {
            roles.query: query,
            roles.value: value,
            roles.position: position,
            roles.identity: identity,
        }
        if not attention.batch_first:
            given = {name: x.detach().transpose(0, 1) for name, x in given.items()}
            given = {name: x.contiguous().requires_grad_() for name, x in given.items()}
        given[roles.reference] = self.random.uniform(_BATCH, _QUERIES, levels, coordinates)
        mask = self.random.mask(_BATCH, tokens)
        given.update(probe.shape_arguments(shapes))
        given.update({roles.mask: mask if masked else None, "encoder_attention_mask": mask})
        given["key"] = given[roles.value]
        return {name: given[name] for name in attention.parameters.names if name in given}


def _not_served(*_: Any, **__: Any) -> NoReturn:
    raise NotImplementedError


def _agree(results: list[_Outcome]) -> bool:
    """Whether the module runs in a way, and agrees in all in which it does."""
    numbers = [result for result in results if not isinstance(result, str)]
    return bool(numbers) and all(number <= probe.TOLERANCE for number in numbers)


def _explain(results: list[_Outcome]) -> str:
    numbers = [result for result in results if not isinstance(result, str)]
    if numbers:
        return (
            "it computes something else than deformable attention with bilinear interpolation: the "
            f"results differ by {max(numbers):.2g} of their largest value"
        )
    return f"it does not run on the CPU: {results[-1]}"
