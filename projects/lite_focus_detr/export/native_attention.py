"""The native kernels as operators of ONNX Runtime, for files of the dialect ``native``."""

from __future__ import annotations

from typing import Any

import numpy.typing as npt
import onnx_ir as ir
import onnxruntime
import torch
from onnxruntime_extensions import PyOp, get_library_path, onnx_op

from .attention_functions import INPUTS, Call

#: Where onnxruntime-extensions looks for operators in Python.
DOMAIN = "ai.onnx.contrib"

_FLOAT, _INT = PyOp.dt_float, PyOp.dt_int64
_KINDS = {
    name: [_INT if x == "spatial_shapes" else _FLOAT for x in INPUTS[name]] for name in INPUTS
}


@onnx_op(
    op_type="LiteFocusDeformableAttention",
    inputs=_KINDS["DeformableAttention"],
    outputs=[_FLOAT],
)
def _deformable_attention(*inputs: npt.NDArray[Any]) -> npt.NDArray[Any]:
    value, spatial_shapes, *others = map(torch.from_numpy, inputs)
    native = torch.ops.lite_focus_detr.ms_deform_attn
    output: npt.NDArray[Any] = native(value, spatial_shapes.tolist(), *others).numpy()
    return output


@onnx_op(
    op_type="LiteFocusKeyAwareDeformableAttention",
    inputs=_KINDS["KeyAwareDeformableAttention"],
    outputs=[_FLOAT],
    attrs={"scale": _FLOAT, "mask_outside": _INT, "separate_key": _INT},
)
def _key_aware_deformable_attention(
    *inputs: npt.NDArray[Any], scale: float, mask_outside: int, separate_key: int
) -> npt.NDArray[Any]:
    query, key, value, spatial_shapes, *others = map(torch.from_numpy, inputs)
    native = torch.ops.lite_focus_detr.key_aware_deform_attn
    arguments = (query, key if separate_key else None, value, spatial_shapes.tolist(), *others)
    output: npt.NDArray[Any] = native(*arguments, scale, bool(mask_outside)).numpy()
    return output


def call_kernels(node: ir.Node) -> None:
    """Make a call of an attention operator one of these, in place."""
    call = Call.of(node)
    node.op_type, node.domain = f"LiteFocus{node.op_type}", DOMAIN
    if call.operator == "KeyAwareDeformableAttention":
        node.attributes["separate_key"] = ir.AttrInt64("separate_key", int(call.separate_key))
        if not call.separate_key:
            # Operators in Python have no optional inputs.
            node.replace_input_with(1, node.inputs[2])


def register_native_attention(options: onnxruntime.SessionOptions) -> None:
    """Let sessions with these ``options`` run files of the dialect ``native``."""
    options.register_custom_ops_library(get_library_path())
