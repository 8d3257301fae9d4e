"""Exported files are compared with their detector before they are written."""

import json
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import openvino
import pytest
import torch

from lite_focus_detr.export import DIALECTS, ImageInput, conversion, export_onnx, onnx_file
from lite_focus_detr.export.comparison import TOLERANCE
from lite_focus_detr.export.detector import TensorDetector
from lite_focus_detr.export.native_attention import register_native_attention
from lite_focus_detr.export.onnx_file import FILE_OUTPUTS, METADATA_KEY, make_batches, write_checked
from lite_focus_detr.export.runtime import start_session

from .conftest import QUICK_CONFIGS, make_config, make_model


def operators_that_run(path, images):
    """Types of the nodes that ONNX Runtime computes with the kernels registered."""
    options = onnxruntime.SessionOptions()
    options.enable_profiling, options.profile_file_prefix = True, str(path.with_suffix(""))
    register_native_attention(options)
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    session.run(None, {"images": images})
    events = json.loads(Path(session.end_profiling()).read_text())
    return {event["args"]["op_name"] for event in events if "op_name" in event.get("args", {})}


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("name", QUICK_CONFIGS)
def test_every_encoder_is_exported_in_every_dialect(trace, tmp_path, name, dialect):
    detector, _, traced = trace(name)
    path = tmp_path / "model.onnx"
    comparisons = write_checked(traced, detector, path, dialect)
    assert all(x.passed and x.detections > 0 for x in comparisons)
    shapes = {x.batch for x in comparisons}
    assert len({shape[2:] for shape in shapes}) == 3
    assert {shape[0] for shape in shapes} == {1, 2}

    session = start_session(str(path))
    (images,) = session.get_inputs()
    assert (images.name, images.type) == ("images", "tensor(float)")
    assert images.shape == ["batch", 3, "height", "width"]
    assert [x.name for x in session.get_outputs()] == list(FILE_OUTPUTS)
    # A size and a batch that were not compared.
    batch = torch.rand(3, 3, 150, 210, generator=torch.Generator().manual_seed(0)) * 255
    with torch.no_grad():
        scores = detector(batch)[1]
    found = session.run(None, {"images": batch.numpy()})
    np.testing.assert_allclose(found[1], scores, atol=TOLERANCE)
    contents = json.loads(session.get_modelmeta().custom_metadata_map[METADATA_KEY])
    assert contents["dialect"] == dialect

    operators = {node.op_type for node in onnx.load(path).graph.node}
    assert ("GridSample" in operators) == (dialect == "standard")
    if dialect == "native":
        assert any(x.startswith("LiteFocus") for x in operators_that_run(path, batch.numpy()))
        # Without the kernels.
        plain = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        boxes, scores, _ = plain.run(None, {"images": batch.numpy()})
        np.testing.assert_allclose(scores, found[1], atol=TOLERANCE)
        np.testing.assert_allclose(boxes, found[0], atol=TOLERANCE * 210)
        return
    compiled = openvino.Core().compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    in_openvino = compiled(batch.numpy())
    np.testing.assert_allclose(in_openvino["scores"], found[1], atol=TOLERANCE)
    np.testing.assert_allclose(in_openvino["boxes"], found[0], atol=TOLERANCE * 210)


@pytest.mark.parametrize(
    ("operator", "name", "value"),
    [("GridSample", "align_corners", 1), ("TopK", "largest", 0), ("Softmax", "axis", 1)],
)
def test_a_wrong_node_is_refused_and_nothing_is_left(
    trace, tmp_path, monkeypatch, operator, name, value
):
    def break_one(model, dialect):
        write_attention(model, dialect)
        node = next(node for node in model.graph if node.op_type == operator)
        node.attributes[name] = ir.AttrInt64(name, value)

    detector, _, traced = trace("dino_shapes")
    write_attention = conversion.write_attention
    monkeypatch.setattr(conversion, "write_attention", break_one)
    path = tmp_path / "model.onnx"
    path.write_text("an earlier export")
    with pytest.raises(ValueError, match="does not give the detector's results"):
        write_checked(traced, detector, path, "standard")
    assert list(tmp_path.iterdir()) == []


def test_a_wrong_weight_is_refused(trace, tmp_path):
    detector, _, traced = trace("dino_shapes")
    bias = traced.graph.initializers["model.heads.bbox_embed.0.layers.1.bias"]
    bias.const_value = ir.tensor(bias.const_value.numpy() * 1.01)
    with pytest.raises(ValueError, match="does not give the detector's results"):
        write_checked(traced, detector, tmp_path / "model.onnx", "standard")


def test_a_missing_folder_and_missing_kernels_are_said_before_the_trace(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="there is no folder"):
        export_onnx(None, tmp_path / "missing" / "model.onnx")
    monkeypatch.setenv("LITE_FOCUS_DETR_OPS", "reference")
    with pytest.raises(ValueError, match="LITE_FOCUS_DETR_OPS"):
        export_onnx(None, tmp_path / "model.onnx", dialect="gather")


def test_missing_packages_are_named(monkeypatch):
    monkeypatch.setattr(onnx_file, "PACKAGES", ("onnx", "no_such_package"))
    with pytest.raises(
        ValueError, match=r"no_such_package; pip install 'lite-focus-detr\[export\]'"
    ):
        export_onnx(None, "model.onnx")


def test_images_that_are_given_are_resized_to_all_sizes():
    detector = TensorDetector(make_model(make_config("dino_shapes")), ImageInput())
    image = torch.full((3, 40, 50), 7.0)
    batches = list(make_batches(detector, [image]))
    assert len(batches) == 6
    assert all(torch.allclose(batch, image.new_tensor(7.0)) for batch in batches)
    assert {batch.shape[0] for batch in batches} == {1, 2}
