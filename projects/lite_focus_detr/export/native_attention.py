"""The native kernels as operators of ONNX Runtime, for files of the dialect ``native``.

:data:`LIBRARY` is a library of custom operators for ONNX Runtime 1.21 and later that needs neither
PyTorch nor Python. Where it has not been built, operators in Python take its place.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import onnx_ir as ir
import onnxruntime

from .. import ops
from ..ops.shared_library import library_fault
from .attention_functions import Call

#: Where onnxruntime-extensions looks for operators in Python, hence that of the compiled ones too.
DOMAIN = "ai.onnx.contrib"
#: The compiled operators, for ``SessionOptions.register_custom_ops_library``.
LIBRARY = Path(ops.__file__).with_name("_onnxruntime.so")


def call_kernels(node: ir.Node, function: ir.Function) -> ir.Function:
    """Make a call of an attention operator one of these, in place.

    Args:
        node: the call.
        function: what computes it.

    Returns:
        the function under the name of the operator: ONNX Runtime takes it where it has no kernel
        of that name.
    """
    call, attributes = Call.of(node), list(function.attributes.values())
    node.op_type, node.domain = f"LiteFocus{node.op_type}", DOMAIN
    if call.operator == "KeyAwareDeformableAttention":
        node.attributes["separate_key"] = ir.AttrInt64("separate_key", int(call.separate_key))
        attributes.append(ir.Attr("separate_key", ir.AttributeType.INT, None))
        if not call.separate_key:
            # Operators in Python have no optional inputs.
            node.replace_input_with(1, node.inputs[2])
    name = (DOMAIN, node.op_type, function.overload)
    return ir.Function(*name, graph=function.graph, attributes=attributes)


def library_reason() -> str | None:
    """Why the compiled operators cannot be loaded; None where they can."""
    if not LIBRARY.is_file():
        return f"{LIBRARY.name} has not been built"
    fault = library_fault(str(LIBRARY))
    return None if fault is None else f"{LIBRARY.name} {fault}"


def unavailable_reason() -> str | None:
    """Why files of the dialect ``native`` cannot run here; None where they can."""
    reason = library_reason()
    if reason is None:
        return None
    if importlib.util.find_spec("onnxruntime_extensions") is None:
        return (
            f"{reason}, and onnxruntime-extensions is not installed; "
            "pip install 'lite-focus-detr[export]'"
        )
    return ops.unavailable_reason("cpu")


def register_native_attention(options: onnxruntime.SessionOptions) -> None:
    """Let sessions with these ``options`` run files of the dialect ``native``.

    Args:
        options: of sessions that are started later.

    Raises:
        ValueError: there are neither compiled operators nor operators in Python.
    """
    reason = unavailable_reason()
    if reason is not None:
        raise ValueError(f"files of the dialect native cannot run: {reason}")
    if library_reason() is None:
        options.register_custom_ops_library(str(LIBRARY))
    else:
        from .python_operators import register_python_operators

        register_python_operators(options)
