"""Sessions of ONNX Runtime, and what files say of themselves."""

import json
import logging

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


def test_a_library_that_cannot_be_loaded_costs_the_kernels_alone(
    model, tmp_path, monkeypatch, caplog
):
    library = tmp_path / "_onnxruntime.so"
    library.write_text("no library")
    monkeypatch.setattr(native_attention, "LIBRARY", library)
    with caplog.at_level(logging.WARNING):
        session = start_session(model.SerializeToString())
    assert "run without their kernels" in caplog.text
    (found,) = session.run(None, {"x": torch.tensor([1.0, -2.0]).numpy()})
    assert found.tolist() == [-1.0, 2.0]


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    path = tmp_path / "model.onnx"
    path.write_bytes(b"no model")
    with pytest.raises(ValueError, match=r"ONNX Runtime cannot read .*model\.onnx"):
        open_file(str(path))
