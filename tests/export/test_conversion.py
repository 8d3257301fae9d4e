import onnx_ir as ir
import pytest

from lite_focus_detr.export.attention_functions import DOMAIN
from lite_focus_detr.export.conversion import name_interface, write, write_attention
from lite_focus_detr.export.detector import DetectorTensors


def test_every_attention_is_one_node_until_a_dialect_is_chosen(trace):
    detector, _, traced = trace("dino_shapes")
    model = detector.model
    count = len(model.encoder.layers) + len(model.decoder.layers)
    assert sum(node.domain == DOMAIN for node in traced.graph) == count
    write_attention(traced, "standard")
    assert {node.domain for node in traced.graph} == {""}
    assert sum(node.op_type == "GridSample" for node in traced.graph) == count * 4
    assert not traced.functions


def test_nothing_of_the_machine_is_in_the_model(trace):
    _, _, traced = trace("dino_shapes")
    text = ir.to_proto(traced).SerializeToString()
    assert b"site-packages" not in text
    assert b".py" not in text


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((2, 3, "h", "w"), ["batch", 3, "height", "width"]),
        ((2, "h", "w", 3), ["batch", "height", "width", 3]),
    ],
)
def test_inputs_and_outputs_have_names_and_named_sizes(shape, expected):
    images = ir.Value(name="x", shape=ir.Shape(shape))
    shapes = {"boxes": ("s", "k", 4), "pred_logits": ("s", "q", 7), "pred_boxes": ("s", "q", 4)}
    outputs = [
        ir.Value(name=f"add_{i}", shape=ir.Shape(shapes.get(name, ("s", "k"))))
        for i, name in enumerate(DetectorTensors._fields)
    ]
    model = ir.Model(ir.Graph([images], outputs, nodes=[]), ir_version=10)
    name_interface(model)
    assert list(map(str, images.shape)) == list(map(str, expected))
    assert [x.name for x in outputs] == list(DetectorTensors._fields)
    assert list(map(str, outputs[1].shape)) == ["batch", "detections"]
    assert list(map(str, outputs[3].shape)) == ["batch", "queries", "7"]


def test_a_file_that_cannot_be_written_leaves_nothing(tmp_path, monkeypatch):
    def fail(model, path):
        path.write_text("half")
        raise OSError("no space left on device")

    monkeypatch.setattr(ir, "save", fail)
    with pytest.raises(OSError, match="no space"):
        write(None, tmp_path / "model.onnx")
    assert list(tmp_path.iterdir()) == []
