"""The attention operators as ONNX functions, after the formulas of ``ops.reference``.

The letters of shapes are those of :mod:`lite_focus_detr.ops.reference`. A function is made for a
call: how many levels, heads and points there are is constant in it, everything else is dynamic.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import onnx_ir as ir

#: Domain of the operators, and their inputs.
DOMAIN = "lite_focus_detr"
INPUTS = {
    "DeformableAttention": (
        "value",
        "spatial_shapes",
        "reference_points",
        "sampling_offsets",
        "attention_logits",
    ),
    "KeyAwareDeformableAttention": (
        "query",
        "key",
        "value",
        "spatial_shapes",
        "reference_points",
        "sampling_offsets",
    ),
}
#: Version of the standard operators.
OPSET = 18
MASKED_LOGIT = -3.4028234663852886e38


@dataclasses.dataclass(frozen=True)
class Call:
    """What is constant in a call of an operator."""

    operator: str
    heads: int  #: M
    channels: int  #: D
    levels: int  #: L
    points: int  #: P
    offset_levels: int  #: L, or 1: the same offsets on every level
    reference_size: int  #: 2: points, 4: boxes
    separate_key: bool = False
    scale: float = 1.0
    mask_outside: bool = False

    @classmethod
    def of(cls, node: ir.Node) -> Call:
        """What ``node`` says; shapes of its inputs must be known where they are constant."""
        inputs = dict(zip(INPUTS[node.op_type], node.inputs, strict=True))
        *_, heads, channels = inputs["value"].shape
        *_, offset_levels, points, _ = inputs["sampling_offsets"].shape
        *_, levels, reference_size = inputs["reference_points"].shape
        sizes = (heads, channels, levels, points, offset_levels, reference_size)
        if "scale" not in node.attributes:
            return cls(node.op_type, *sizes)
        scale = node.attributes["scale"].as_float()
        masked = bool(node.attributes["mask_outside"].as_int())
        return cls(node.op_type, *sizes, inputs["key"] is not None, scale, masked)


class Ops:
    """Appends ONNX operators to a graph that is being made."""

    def __init__(self) -> None:
        self.tape = ir.tape.Tape()

    def __call__(self, name: str, *inputs: ir.Value, **attributes: object) -> ir.Value:
        """The result of the operator ``name``."""
        return self.tape.op(name, inputs, attributes)

    def ints(self, *values: int) -> ir.Value:
        """A list of int64."""
        return self("Constant", value_ints=values)

    def integer(self, value: int) -> ir.Value:
        """An int64."""
        return self("Constant", value_int=value)

    def number(self, value: float) -> ir.Value:
        """A float32."""
        return self("Constant", value_float=value)

    def split(self, x: ir.Value, lengths: Sequence[ir.Value], axis: int) -> Sequence[ir.Value]:
        """Cut into parts of the ``lengths``, each (1,)."""
        joined = self("Concat", *lengths, axis=0)
        count = {"num_outputs": len(lengths)}
        return self.tape.op_multi_out("Split", (x, joined), {"axis": axis}, **count)

    def unstack(self, x: ir.Value, count: int, axis: int) -> Sequence[ir.Value]:
        """The ``count`` entries of an axis, which stays."""
        return self.split(x, [self.ints(1)] * count, axis)

    def sum(self, terms: Sequence[ir.Value]) -> ir.Value:
        """The sum of equally shaped tensors."""
        total = terms[0]
        for term in terms[1:]:
            total = self("Add", total, term)
        return total


@dataclasses.dataclass(frozen=True)
class Level:
    """Where the queries sample on a level."""

    height: ir.Value  #: (1,) int64
    width: ir.Value  #: (1,) int64
    locations: ir.Value  #: (B, Q, M, P, 2), (x, y) in units of the map

    def pixels(self, op: Ops, axis: int) -> tuple[ir.Value, ir.Value]:
        """Coordinate of the locations in pixels, 0 at the centre of the first one, and the number
        of pixels."""
        size = op("Cast", (self.width, self.height)[axis], to=ir.DataType.FLOAT)
        coordinate = op("Gather", self.locations, op.integer(axis), axis=-1)
        return op("Sub", op("Mul", coordinate, size), op.number(0.5)), size


#: Interpolates the maps (B, H * W, M, D) of a level at its locations: (B, Q, M, P, D).
Sampler = Callable[[Ops, ir.Value, Level, Call], ir.Value]


def sample_with_grid_sample(op: Ops, maps: ir.Value, level: Level, call: Call) -> ir.Value:
    """A :data:`Sampler` that is the standard operator GridSample."""
    maps = op("Transpose", maps, perm=[0, 2, 3, 1])
    shape = op("Concat", op.ints(-1, call.channels), level.height, level.width, axis=0)
    maps = op("Reshape", maps, shape)  # (B * M, D, H, W)
    grid = op("Sub", op("Mul", level.locations, op.number(2.0)), op.number(1.0))
    grid = op("Transpose", grid, perm=[0, 2, 1, 3, 4])
    queries = op("Shape", level.locations, start=1, end=2)
    shape = op("Concat", op.ints(-1), queries, op.ints(call.points, 2), axis=0)
    grid = op("Reshape", grid, shape)  # (B * M, Q, P, 2)
    sampled = op("GridSample", maps, grid, mode="bilinear", align_corners=0)
    heads = op.ints(-1, call.heads, call.channels)
    shape = op("Concat", heads, queries, op.ints(call.points), axis=0)
    return op("Transpose", op("Reshape", sampled, shape), perm=[0, 3, 1, 4, 2])


def sample_with_gather(op: Ops, maps: ir.Value, level: Level, call: Call) -> ir.Value:
    """A :data:`Sampler` that gathers the four pixels around each location."""
    rows = op("Reshape", maps, op.ints(-1, call.channels))  # (B * H * W * M, D)
    batch = op("Squeeze", op("Shape", maps, start=0, end=1))
    images = op("Unsqueeze", op("Range", op.integer(0), batch, op.integer(1)), op.ints(1, 2, 3))
    first = op("Mul", images, op("Mul", level.height, level.width))  # (B, 1, 1, 1)
    head = op("Unsqueeze", op.ints(*range(call.heads)), op.ints(1))  # (M, 1)
    columns, lines = (neighbours(op, level, axis) for axis in (0, 1))
    terms = []
    for y, y_weight in lines:
        for x, x_weight in columns:
            token = op("Add", op("Add", op("Mul", y, level.width), x), first)
            row = op("Add", op("Mul", token, op.ints(call.heads)), head)  # (B, Q, M, P)
            weight = op("Unsqueeze", op("Mul", x_weight, y_weight), op.ints(-1))
            terms.append(op("Mul", op("Gather", rows, row, axis=0), weight))
    return op.sum(terms)


def neighbours(op: Ops, level: Level, axis: int) -> list[tuple[ir.Value, ir.Value]]:
    """Indices (B, Q, M, P) of the pixels before and after each location on an axis, and their
    weights; a pixel outside of the map has the weight 0 and the index of the nearest inside."""
    pixel, size = level.pixels(op, axis)
    before = op("Floor", pixel)
    share = op("Sub", pixel, before)
    last = op("Sub", size, op.number(1.0))
    after = op("Add", before, op.number(1.0))
    found = []
    for cell, weight in ((before, op("Sub", op.number(1.0), share)), (after, share)):
        inside = op("Max", op("Min", cell, last), op.number(0.0))
        weight = op("Where", op("Equal", cell, inside), weight, op.number(0.0))
        found.append((op("Cast", inside, to=ir.DataType.INT64), weight))
    return found


def make_function(call: Call, sample: Sampler) -> ir.Function:
    """The ONNX function of a call.

    Args:
        call: what is constant in it.
        sample: how levels are interpolated.

    Returns:
        a function with domain and name of the operator and an ``overload`` for the call.
    """
    op = Ops()
    given = {name: ir.Value(name=name) for name in INPUTS[call.operator]}
    levels = split_levels(op, given, call)
    lengths = [op("Mul", level.height, level.width) for level in levels]

    def sample_levels(name: str) -> list[ir.Value]:
        maps = op.split(given[name], lengths, 1)
        return [sample(op, x, level, call) for x, level in zip(maps, levels, strict=True)]

    values = sample_levels("value")
    if call.operator == "DeformableAttention":
        logits = given["attention_logits"]
    else:
        keys = sample_levels("key") if call.separate_key else values
        logits = key_logits(op, given["query"], keys, levels, call)
    weights = op("Softmax", logits, axis=-1)  # (B, Q, M, L * P)
    parts = op.split(weights, [op.ints(call.points)] * call.levels, -1)
    weighted = []
    for x, part in zip(values, parts, strict=True):
        product = op("Mul", x, op("Unsqueeze", part, op.ints(-1)))
        weighted.append(op("ReduceSum", product, op.ints(3), keepdims=0))
    output = op("Reshape", op.sum(weighted), op.ints(0, 0, call.heads * call.channels))
    graph = ir.Graph(list(given.values()), [output], nodes=op.tape.nodes, opset_imports={"": OPSET})
    attributes = []
    if call.operator == "KeyAwareDeformableAttention":
        kinds = {"scale": ir.AttributeType.FLOAT, "mask_outside": ir.AttributeType.INT}
        attributes = [ir.Attr(name, kind, None) for name, kind in kinds.items()]
    overload = "_".join(str(x) for x in dataclasses.astuple(call)[1:])
    return ir.Function(DOMAIN, call.operator, overload, graph=graph, attributes=attributes)


def split_levels(op: Ops, given: dict[str, ir.Value], call: Call) -> list[Level]:
    """Sizes and sampling locations of the levels."""
    sizes = op.unstack(given["spatial_shapes"], 2 * call.levels, 0)
    references = op.unstack(given["reference_points"], call.levels, 2)
    offsets = op.unstack(given["sampling_offsets"], call.offset_levels, 3)
    if call.offset_levels == 1:
        offsets = list(offsets) * call.levels
    levels = []
    for height, width, reference, offset in zip(
        sizes[0::2], sizes[1::2], references, offsets, strict=True
    ):
        reference = op("Unsqueeze", reference, op.ints(3))  # (B, Q, 1, 1, 2 or 4)
        offset = op("Squeeze", offset, op.ints(3))  # (B, Q, M, P, 2)
        if call.reference_size == 2:
            pixels = op("Concat", width, height, axis=0)
            offset = op("Div", offset, op("Cast", pixels, to=ir.DataType.FLOAT))
        else:
            reference, box = op.split(reference, [op.ints(2)] * 2, -1)
            share = op.number(0.5 / call.points)
            offset = op("Mul", offset, op("Mul", box, share))
        # Beyond [-1, 2] a point is outside of every map.
        located = op("Clip", op("Add", reference, offset), op.number(-1.0), op.number(2.0))
        levels.append(Level(height, width, located))
    return levels


def key_logits(
    op: Ops, query: ir.Value, keys: Sequence[ir.Value], levels: Sequence[Level], call: Call
) -> ir.Value:
    """Products (B, Q, M, L * P) of a query (B, Q, M, D) and its sampled ``keys``."""
    query = op("Unsqueeze", op("Mul", query, op.number(call.scale)), op.ints(3))
    logits = []
    for key, level in zip(keys, levels, strict=True):
        product = op("ReduceSum", op("Mul", query, key), op.ints(-1), keepdims=0)
        if call.mask_outside:
            product = op("Where", inside_map(op, level), product, op.number(MASKED_LOGIT))
        logits.append(product)
    return op("Concat", *logits, axis=-1)


def inside_map(op: Ops, level: Level) -> ir.Value:
    """Which locations (B, Q, M, P) touch a pixel of their map."""
    on_axes = []
    for axis in (0, 1):
        pixel, size = level.pixels(op, axis)
        above, below = op("Greater", pixel, op.number(-1.0)), op("Less", pixel, size)
        on_axes.append(op("And", above, below))
    return op("And", *on_axes)
