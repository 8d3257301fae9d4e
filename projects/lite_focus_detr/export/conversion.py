"""From a program of torch.export to an ONNX model in one of three dialects."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx_ir as ir
import torch
from onnx.defs import OpSchema
from onnx_ir.passes import common
from onnxscript import optimizer
from onnxscript.values import Op, Opset
from torch.export import ExportedProgram

from .. import ops
from . import native_attention
from .attention_functions import (
    DOMAIN,
    INPUTS,
    OPSET,
    Call,
    make_function,
    sample_with_gather,
    sample_with_grid_sample,
)
from .detector import DetectorTensors

#: How attention samples, by dialect; without the kernels, for ``native``.
SAMPLERS = {
    "standard": sample_with_grid_sample,
    "gather": sample_with_gather,
    "native": sample_with_gather,
}


def _operator(name: str) -> Op:
    """An operator of this project for onnxscript."""
    parameter = OpSchema.FormalParameter
    optional = OpSchema.FormalParameterOption.Optional
    inputs = []
    for x in INPUTS[name]:
        kind = "tensor(int64)" if x == "spatial_shapes" else "tensor(float)"
        inputs.append(parameter(x, kind, **({"param_option": optional} if x == "key" else {})))
    attributes = []
    if name == "KeyAwareDeformableAttention":
        kinds = {"scale": OpSchema.AttrType.FLOAT, "mask_outside": OpSchema.AttrType.INT}
        attributes = [OpSchema.Attribute(x, kind) for x, kind in kinds.items()]
    outputs = [parameter("output", "tensor(float)")]
    schema = OpSchema(name, DOMAIN, 1, inputs=inputs, outputs=outputs, attributes=attributes)
    return Op(Opset(DOMAIN, 1), name, schema)


def _deformable_attention(*inputs: Any) -> Any:
    """Translation of ``ms_deform_attn``, whose arguments have the same order."""
    return _operator("DeformableAttention")(*inputs)


def _key_aware_deformable_attention(*inputs: Any) -> Any:
    """Translation of ``key_aware_deform_attn``, whose last arguments are attributes here."""
    *tensors, scale, mask_outside = inputs
    options = {"scale": scale, "mask_outside": int(mask_outside)}
    return _operator("KeyAwareDeformableAttention")(*tensors, **options)


def convert_program(program: ExportedProgram) -> ir.Model:
    """An ONNX model with a node of the domain ``DOMAIN`` for each attention."""
    table: dict[Callable[..., Any], Callable[..., Any]] = {}
    if ops.backend("cpu") != "reference":
        native = torch.ops.lite_focus_detr
        table[native.ms_deform_attn.default] = _deformable_attention
        table[native.key_aware_deform_attn.default] = _key_aware_deformable_attention
    with torch.no_grad():
        exported = torch.onnx.export(
            program,
            dynamo=True,
            opset_version=OPSET,
            custom_translation_table=table,
            optimize=False,
            verbose=False,
        )
    assert exported is not None
    model = exported.model
    # It reports what it leaves as it is.
    logging.getLogger("onnxscript.optimizer").setLevel(logging.ERROR)
    optimizer.optimize(model)
    # The trace's records of files and lines of this machine.
    common.ClearMetadataAndDocStringPass()(model)
    return model


def write_attention(model: ir.Model, dialect: str) -> None:
    """Replace the attention nodes by what computes them in a dialect, in place.

    Those of ``native`` keep beside them what computes them where there are no kernels.
    """
    calls = [node for node in model.graph if node.domain == DOMAIN]
    model.opset_imports.pop(DOMAIN, None)
    for node in calls:
        function = make_function(Call.of(node), SAMPLERS[dialect])
        if dialect == "native":
            function = native_attention.call_kernels(node, function)
        node.overload = function.overload
        model.functions[function.identifier()] = function
    if dialect == "native":
        model.opset_imports[native_attention.DOMAIN] = 1
    else:
        common.InlinePass()(model)


def name_interface(model: ir.Model) -> None:
    """Names of inputs, outputs and their dynamic sizes."""
    graph = model.graph
    (images,) = graph.inputs
    images.name = "images"
    channels_last = images.shape[1] != 3
    sides = ("height", "width", 3) if channels_last else (3, "height", "width")
    images.shape = ir.Shape(("batch", *sides))
    for value, name in zip(graph.outputs, DetectorTensors._fields, strict=True):
        value.name = name
        kept = value.shape[2:]
        count = "queries" if name.startswith("pred_") else "detections"
        value.shape = ir.Shape(("batch", count, *kept))


def write(model: ir.Model, path: Path) -> None:
    """Write a file in one step: it is whole or it is not there."""
    partial = path.with_name(f"{path.name}.tmp{os.getpid()}")
    try:
        ir.save(model, partial)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
