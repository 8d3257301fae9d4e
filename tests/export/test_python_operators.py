"""More of what the operators in Python compute is in test_native_attention.py."""

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from lite_focus_detr import ops
from lite_focus_detr.export.attention_functions import INPUTS
from lite_focus_detr.export.python_operators import register_python_operators

DOMAIN = "ai.onnx.contrib"


@pytest.mark.skipif(ops.backend("cpu") == "reference", reason="there are no kernels")
def test_a_result_is_that_of_pytorch_to_the_bit():
    name = "DeformableAttention"
    value, logits = torch.randn(1, 6, 2, 4), torch.randn(1, 3, 2, 2)
    points, offsets = torch.rand(1, 3, 1, 2), torch.randn(1, 3, 2, 1, 2, 2)
    wanted = torch.ops.lite_focus_detr.ms_deform_attn(value, [2, 3], points, offsets, logits)
    tensors = (value, torch.tensor([2, 3]), points, offsets, logits)
    inputs = dict(zip(INPUTS[name], (x.numpy() for x in tensors), strict=True))
    kinds = {x: onnx.helper.np_dtype_to_tensor_dtype(array.dtype) for x, array in inputs.items()}
    values = [onnx.helper.make_tensor_value_info(x, kind, None) for x, kind in kinds.items()]
    output = onnx.helper.make_tensor_value_info("output", onnx.TensorProto.FLOAT, None)
    node = onnx.helper.make_node(f"LiteFocus{name}", [*inputs], ["output"], domain=DOMAIN)
    graph = onnx.helper.make_graph([node], "attention", values, [output])
    opsets = [onnx.helper.make_opsetid("", 18), onnx.helper.make_opsetid(DOMAIN, 1)]
    model = onnx.helper.make_model(graph, opset_imports=opsets, ir_version=10)
    options = onnxruntime.SessionOptions()
    register_python_operators(options)
    session = onnxruntime.InferenceSession(model.SerializeToString(), options)
    np.testing.assert_array_equal(session.run(None, inputs)[0], wanted.numpy())
