import onnx_ir as ir
import pytest

from lite_focus_detr.export.attention_functions import INPUTS
from lite_focus_detr.export.native_attention import DOMAIN, call_kernels


@pytest.mark.parametrize("separate_key", [False, True])
def test_a_shared_key_is_the_value_for_an_operator_in_python(separate_key):
    shapes = {"value": (2, 9, 3, 4), "sampling_offsets": (2, 5, 3, 1, 2, 2)}
    shapes["reference_points"] = (2, 5, 3, 4)
    operator = "KeyAwareDeformableAttention"
    inputs = [
        ir.Value(name=name, shape=ir.Shape(shapes[name])) if name in shapes else ir.Value(name=name)
        for name in INPUTS[operator]
    ]
    if not separate_key:
        inputs[1] = None
    options = [ir.AttrFloat32("scale", 0.5), ir.AttrInt64("mask_outside", 0)]
    node = ir.Node("lite_focus_detr", operator, inputs, options)
    call_kernels(node)
    assert node.domain == DOMAIN
    assert node.inputs[1] is (inputs[1] if separate_key else inputs[2])
    assert node.attributes["separate_key"].as_int() == separate_key
