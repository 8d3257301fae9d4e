"""Attention modules of others, computed with the fused operator from their linear layers on.

The module has linear layers ``sampling_offsets`` and ``attention_weights``, mostly ``value_proj``
and ``output_proj`` as well, and takes queries, values, reference points and shapes of levels.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from .. import ops
from ..ops.reference import SpatialShapes
from . import arguments
from .arguments import Parameters

#: Factor of the offsets from the centre of a box in the operator and in most modules.
BOX_SCALE = 0.5


class Roles(NamedTuple):
    """Which parameter of a ``forward`` is what; None where there is none for it."""

    query: str
    value: str
    reference: str
    shapes: str
    position: str | None
    mask: str | None
    identity: str | None

    @classmethod
    def of(cls, parameters: Parameters) -> Roles | None:
        """By the names; None where something that is needed is not among them."""
        roles = (arguments.QUERY, arguments.VALUE, arguments.REFERENCE, arguments.SHAPES)
        query, value, reference, shapes = map(parameters.first, roles)
        if query is None or value is None or reference is None or shapes is None:
            return None
        optional = (arguments.POSITION, arguments.MASK, arguments.IDENTITY)
        return cls(query, value, reference, shapes, *map(parameters.first, optional))

    @property
    def known(self) -> tuple[str, ...]:
        """All parameters that are understood."""
        return (*(name for name in self if name is not None), *arguments.UNUSED)


@dataclass(frozen=True)
class FusedAttention:
    """How to compute the ``forward`` of a class of attention modules."""

    parameters: Parameters
    roles: Roles
    heads: int  #: M
    levels: int  #: L
    #: P of each level where they differ, else None.
    num_points: tuple[int, ...] | None = None
    box_scale: float = BOX_SCALE
    batch_first: bool = True  #: False: queries and values are (Q, B, C) and (S, B, C)
    coordinates: tuple[int, ...] = (2, 4)  #: of the reference points that can be served
    padding: bool | None = None  #: what padding is in the mask; None: masks cannot be served
    #: Axes of the attention weights that are returned too: 4 for (B, Q, M, L * P), 5 for
    #: (B, Q, M, L, P); 0: they are not returned.
    weights_axes: int = 0

    def members(self, original: type[nn.Module]) -> dict[str, Any]:
        """See :class:`Substitute`."""
        attention, original_forward = self, original.forward

        def forward(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
            given = attention.parameters.bind(args, kwargs)
            if not attention.serves(given):
                return original_forward(module, *args, **kwargs)
            return attention.attend(module, given)

        return {"forward": forward}

    def serves(self, given: Mapping[str, Any]) -> bool:
        """Whether a call is one that was tried out, on a device with native operators."""
        roles = self.roles
        tensors = [given.get(name) for name in (roles.query, roles.value, roles.reference)]
        if not all(isinstance(tensor, Tensor) for tensor in tensors):
            return False
        value: Tensor = given[roles.value]
        shapes = given.get(roles.shapes)
        return (
            shapes is not None
            and len(shapes) == self.levels
            and self._serves_references(given[roles.reference])
            and self._serves_mask(given.get(roles.mask or ""))
            and self.parameters.only(roles.known, given)
            and ops.backend(value.device) != "reference"
        )

    def _serves_references(self, reference: Tensor) -> bool:
        return (
            reference.dim() == 4
            and reference.shape[2] in (1, self.levels)
            and reference.shape[3] in self.coordinates
        )

    def _serves_mask(self, mask: Tensor | None) -> bool:
        return mask is None or (self.padding is not None and mask.dtype == torch.bool)

    def attend(self, module: Any, given: Mapping[str, Any]) -> Any:
        """The result of ``forward`` with the arguments ``given`` by name."""
        query, value = given[self.roles.query], given[self.roles.value]
        identity = query
        position = given.get(self.roles.position or "")
        if position is not None:
            query = query + position
        if not self.batch_first:
            query, value = query.transpose(0, 1), value.transpose(0, 1)
        value = self._project_value(module, value, given)
        size = (*query.shape[:2], self.heads, -1)
        offsets = module.sampling_offsets(query).view(size)
        logits = module.attention_weights(query).view(size)
        shapes = arguments.spatial_shapes(given[self.roles.shapes])
        reference = given[self.roles.reference]
        output = self._sample(value, shapes, reference, offsets, logits)
        if hasattr(module, "output_proj"):
            output = module.output_proj(output)
        else:
            # As grid_sample, which takes values and locations in the wider of their dtypes.
            output = output.to(torch.promote_types(value.dtype, reference.dtype))
        if not self.batch_first:
            output = output.transpose(0, 1)
        if self.roles.identity is not None:
            stated = given.get(self.roles.identity)
            output = module.dropout(output) + (identity if stated is None else stated)
        if not self.weights_axes:
            return output
        weights = logits.softmax(-1)
        if self.weights_axes == 5:
            weights = weights.view(*weights.shape[:3], self.levels, -1)
        return output, weights

    def _project_value(self, module: Any, value: Tensor, given: Mapping[str, Any]) -> Tensor:
        if hasattr(module, "value_proj"):
            value = module.value_proj(value)
        mask = given.get(self.roles.mask or "")
        if mask is not None:
            value = value.masked_fill((mask if self.padding else ~mask)[..., None], 0.0)
        return value.view(*value.shape[:2], self.heads, -1)

    def _sample(
        self,
        value: Tensor,
        shapes: SpatialShapes,
        reference: Tensor,
        offsets: Tensor,
        logits: Tensor,
    ) -> Tensor:
        """Offsets are (B, Q, M, points of all levels * 2)."""
        if reference.shape[2] != self.levels:
            reference = reference.expand(-1, -1, self.levels, -1)
        if reference.shape[-1] == 4 and self.box_scale != BOX_SCALE:
            sizes = reference[..., 2:] * (self.box_scale / BOX_SCALE)
            reference = torch.cat((reference[..., :2], sizes), -1)
        if self.num_points is None:
            offsets = offsets.view(*offsets.shape[:3], self.levels, -1, 2)
        else:
            offsets, logits = self._with_equal_points(offsets, logits, self.num_points)
        return ops.fused_deformable_attention(value, shapes, reference, offsets, logits)

    @staticmethod
    def _with_equal_points(
        offsets: Tensor, logits: Tensor, num_points: tuple[int, ...]
    ) -> tuple[Tensor, Tensor]:
        """Points that fill all levels up to the same number and have no weight.

        Returns:
            Offsets (B, Q, M, L, P, 2), in fractions 1 / (2 P) of a box, and logits
            (B, Q, M, L * P).
        """
        most = max(num_points)
        starts = [sum(num_points[:level]) for level in range(len(num_points))]
        rows = [
            (start + min(point, count - 1), point >= count, most / count)
            for start, count in zip(starts, num_points, strict=True)
            for point in range(most)
        ]
        index, added, factors = (
            torch.tensor(column, device=offsets.device) for column in zip(*rows, strict=True)
        )
        size = offsets.shape[:3]
        offsets = offsets.view(*size, -1, 2).index_select(3, index)
        offsets = offsets * factors[:, None].to(offsets.dtype)
        logits = logits.index_select(3, index).masked_fill(added, float("-inf"))
        return offsets.view(*size, len(num_points), most, 2), logits
