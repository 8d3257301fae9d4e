"""The names that published attention modules give to the arguments of ``forward``."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, NamedTuple

from torch import Tensor

from ..ops.reference import SpatialShapes

#: Names of each argument: in transformers, in mmcv and detrex, in the original repositories.
QUERY = ("hidden_states", "query")
POSITION = ("position_embeddings", "query_pos")
VALUE = ("encoder_hidden_states", "input_flatten", "value")
MASK = ("attention_mask", "key_padding_mask", "input_padding_mask", "value_mask")
REFERENCE = ("reference_points",)
IDENTITY = ("identity",)
LOCATIONS = ("sampling_locations",)
WEIGHTS = ("attention_weights",)
NUM_POINTS = ("num_points_list",)
#: Lists before tensors, which would have to be copied from the device.
SHAPES = (
    "spatial_shapes_list",
    "value_spatial_shapes_list",
    "spatial_shapes",
    "value_spatial_shapes",
    "input_spatial_shapes",
)
#: Indices of the levels' first tokens, which follow from the shapes.
STARTS = ("level_start_index", "value_level_start_index", "input_level_start_index")
#: What need not be read: the shapes are in another argument as well, the rest has no effect.
UNUSED = (*SHAPES, *STARTS, "key", "encoder_attention_mask", "im2col_step", "output_attentions")


class Parameters(NamedTuple):
    """The named parameters of a function."""

    names: tuple[str, ...]  #: in their order
    defaults: tuple[Any, ...]  #: of each; None where there is none

    def first(self, names: Sequence[str]) -> str | None:
        """The first of ``names`` that is a parameter."""
        return next((name for name in names if name in self.names), None)

    def bind(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """The arguments of a call by name."""
        return {**dict(zip(self.names, args, strict=False)), **kwargs}

    def only(self, known: Sequence[str], given: Mapping[str, Any]) -> bool:
        """Whether every parameter beyond ``known`` has its default value in a call."""
        for name, default in zip(self.names, self.defaults, strict=True):
            if name not in known:
                value = given.get(name, default)
                if value is not default and (isinstance(value, Tensor) or value != default):
                    return False
        return True


def parameters_of(function: Callable[..., Any]) -> Parameters | None:
    """The parameters of a method without ``self``, or of a function; None if they are not known."""
    try:
        listed = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return None
    named = [
        parameter
        for parameter in listed
        if parameter.name != "self" and parameter.kind is parameter.POSITIONAL_OR_KEYWORD
    ]
    defaults = tuple(None if item.default is item.empty else item.default for item in named)
    if not all(isinstance(default, Hashable) for default in defaults):
        return None
    return Parameters(tuple(item.name for item in named), defaults)


def spatial_shapes(given: Tensor | Sequence[Sequence[int]]) -> SpatialShapes:
    """Shapes (H, W) of the levels, from a list or an integer tensor (L, 2)."""
    return given.tolist() if isinstance(given, Tensor) else given
