"""Images of any size in front of an ONNX model, resized as an evaluation resizes them."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from .attention_functions import Ops
from .detector import DetectorTensors, ImageInput


def resize_inputs(model: ir.Model, image_input: ImageInput) -> None:
    """Let a model resize its images, and give boxes in pixels of those that it is given, in place.

    Args:
        model: takes float32 (B, 3, H, W) and has the outputs of :class:`DetectorTensors`.
        image_input: how it shall take images, with ``resize``.
    """
    graph = model.graph
    op = Ops()
    (resized_images,) = graph.inputs
    images = ir.Value(
        name="images",
        type=ir.TensorType(ir.DataType.from_numpy(np.dtype(image_input.dtype))),
        shape=ir.Shape(image_input.shape("batch", "height", "width")),
    )
    given = images
    if image_input.layout == "hwc":
        given = op("Transpose", given, perm=[0, 3, 1, 2])
    given = op("Cast", given, to=ir.DataType.FLOAT)
    sides, wanted = _sizes(op, given, image_input)
    shape = op(
        "Concat", op("Shape", given, end=2), op("Cast", wanted, to=ir.DataType.INT64), axis=0
    )
    # Weights of pixels beyond the border are left out, as Pillow does.
    filter_options = {"mode": "linear", "antialias": 1, "exclude_outside": 1}
    result = op("Resize", given, None, None, shape, **filter_options)
    resized_images.replace_all_uses_with(result)
    graph.inputs[0] = images
    graph.insert_before(graph[0], op.tape.nodes)

    op = Ops()
    index = DetectorTensors._fields.index("boxes")
    boxes = graph.outputs[index]
    ratios = op("Cast", op("Div", sides, wanted), to=ir.DataType.FLOAT)
    ratios = op("Gather", ratios, op.ints(1, 0, 1, 0))
    scaled = op("Mul", boxes, ratios)
    scaled.type, scaled.shape = boxes.type, boxes.shape
    graph.outputs[index] = scaled
    graph.extend(op.tape.nodes)


def _sizes(op: Ops, images: ir.Value, image_input: ImageInput) -> tuple[ir.Value, ir.Value]:
    """(height, width) of images (B, 3, H, W) and of what they are resized to, as float64: the
    arithmetic of :data:`RESIZES`."""
    assert image_input.resize is not None
    shortest, longest = (_double(op, x) for x in image_input.resize)
    sides = op("Cast", op("Shape", images, start=2), to=ir.DataType.DOUBLE)
    short, long = op("ReduceMin", sides), op("ReduceMax", sides)
    is_short = op("Equal", sides, short)
    if image_input.resize_rounding == "nearest":
        wanted = op("Where", is_short, shortest, op("Mul", op("Div", shortest, short), sides))
        limit = op("Div", longest, op("ReduceMax", wanted))
        wanted = op("Mul", wanted, op("Min", limit, _double(op, 1)))
        return sides, op("Floor", op("Add", wanted, _double(op, 0.5)))
    too_long = op("Greater", op("Mul", op("Div", long, short), shortest), longest)
    rounded = op("Round", op("Div", op("Mul", longest, short), long))
    new_short = op("Where", too_long, op("Max", rounded, _double(op, 1)), shortest)
    new_long = op("Floor", op("Div", op("Mul", new_short, long), short))
    return sides, op("Where", is_short, new_short, new_long)


def _double(op: Ops, value: float) -> ir.Value:
    return op("Constant", value=ir.tensor(np.array(value, np.float64)))
