"""The operators of files of the dialect ``native`` in Python, by onnxruntime-extensions.

They are for where the compiled ones have not been built: each result comes back as a list of
numbers, which takes many times longer than the kernel.
"""

from __future__ import annotations

from typing import Any

import numpy.typing as npt
import onnxruntime
import torch
from onnxruntime_extensions import PyOp, get_library_path, onnx_op

from .attention_functions import INPUTS

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


def register_python_operators(options: onnxruntime.SessionOptions) -> None:
    """Let sessions with these ``options`` call the operators of this module."""
    options.register_custom_ops_library(get_library_path())
