"""Sessions of ONNX Runtime, and what files say of themselves."""

import json

import onnx
import pytest
import torch

from lite_focus_detr.export import native_attention
from lite_focus_detr.export.onnx_file import METADATA_KEY
from lite_focus_detr.export.runtime import open_file, read_contents, start_session


@pytest.fixture
def model():
    values = [
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [2]) for name in "xy"
    ]
    node = onnx.helper.make_node("Neg", ["x"], ["y"])
    graph = onnx.helper.make_graph([node], "negation", values[:1], values[1:])
    opset = [onnx.helper.make_opsetid("", 18)]
    return onnx.helper.make_model(graph, opset_imports=opset, ir_version=10)


def test_a_session_has_the_threads_of_pytorch(model):
    session = start_session(model.SerializeToString())
    assert session.get_session_options().intra_op_num_threads == torch.get_num_threads()
    (found,) = session.run(None, {"x": torch.tensor([1.0, -2.0]).numpy()})
    assert found.tolist() == [-1.0, 2.0]


def test_contents_are_those_of_the_file(model):
    assert read_contents(start_session(model.SerializeToString())) == {}
    entry = model.metadata_props.add()
    entry.key, entry.value = METADATA_KEY, json.dumps({"dialect": "gather"})
    assert read_contents(start_session(model.SerializeToString())) == {"dialect": "gather"}


@pytest.mark.parametrize("operator", ["Neg", "LiteFocusDeformableAttention"])
def test_a_native_file_needs_the_kernels(model, tmp_path, monkeypatch, operator):
    entry = model.metadata_props.add()
    entry.key, entry.value = METADATA_KEY, json.dumps({"dialect": "native"})
    if operator != "Neg":
        model.graph.node[0].op_type = operator
        model.graph.node[0].domain = native_attention.DOMAIN
        model.opset_import.append(onnx.helper.make_opsetid(native_attention.DOMAIN, 1))
    path = str(tmp_path / "model.onnx")
    onnx.save(model, path)
    with monkeypatch.context() as patch:
        patch.setattr(native_attention, "LIBRARY", tmp_path / "_onnxruntime.so")
        patch.setenv("LITE_FOCUS_DETR_OPS", "reference")
        with pytest.raises(
            ValueError, match=r"model\.onnx is of the dialect native, which needs the ke"
        ):
            open_file(path)
    if operator == "Neg" and native_attention.unavailable_reason() is None:
        open_file(path)
