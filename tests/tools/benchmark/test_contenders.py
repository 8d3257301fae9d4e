import json

import pytest
import torch

from lite_focus_detr import model_zoo
from lite_focus_detr.export.onnx_file import METADATA_KEY
from lite_focus_detr.optimization import detector
from lite_focus_detr.tools.benchmark import acceleration, contenders
from lite_focus_detr.tools.benchmark.contenders import (
    detector_workload,
    exported,
    make_contenders,
    make_inputs,
    optimized_variants,
    peers,
    short_names,
)


def test_a_training_step_of_the_detector_reaches_its_weights_and_leaves_no_gradients():
    model = model_zoo.get("dino_shapes", device="cpu")
    reached = set()
    trained = {key: p for key, p in model.named_parameters() if p.requires_grad}
    for key, parameter in trained.items():
        parameter.register_hook(lambda gradient, key=key: reached.add(key))
    detector_workload(model, make_inputs((64, 96), model.device), train=True)()
    assert reached == trained.keys()
    assert all(parameter.grad is None for parameter in model.parameters())


def test_the_boxes_lie_in_the_image():
    (inputs,) = make_inputs((64, 96), torch.device("cpu"))
    boxes = inputs["instances"].gt_boxes
    assert inputs["image"].shape == (3, 64, 96)
    assert boxes.inside_box((64, 96)).all()
    torch.testing.assert_close(boxes.area(), torch.full((7,), 0.2 * 64 * 0.2 * 96))


@pytest.mark.parametrize("there", [(False, True), (True, False)])
def test_a_detector_takes_part_in_every_form_that_the_processor_runs(monkeypatch, there):
    has_bfloat16, has_int8 = there
    for module in (contenders, detector):
        monkeypatch.setattr(module, "has_bfloat16", lambda: has_bfloat16)
        monkeypatch.setattr(module, "has_int8", lambda: has_int8)
    variants = optimized_variants(model_zoo.get("dino_shapes", device="cpu"))
    assert list(variants) == ["optimized", *["bfloat16"] * has_bfloat16, *["int8"] * has_int8]
    dtypes = [variant.inference_dtype for variant in variants.values()]
    assert dtypes == [None, *[torch.bfloat16] * has_bfloat16, *[None] * has_int8]


def test_paths_with_equal_last_parts_are_told_apart():
    names = short_names(["a/dino.yaml", "b/dino.yaml", "b/lite.yaml", "b/lite.yaml"])
    assert names == {
        "a/dino.yaml": "a/dino.yaml",
        "b/dino.yaml": "b/dino.yaml",
        "b/lite.yaml": "lite.yaml",
    }


def test_detectors_and_files_of_equal_names_all_take_part(monkeypatch):
    cfg = model_zoo.get_config("dino_shapes")
    monkeypatch.setattr(contenders, "peers", lambda *_: {})
    monkeypatch.setattr(contenders, "optimized_variants", lambda _: {})
    monkeypatch.setattr(contenders, "exported", lambda path, image, name: {(name, "x"): path})
    files = ["a/model.onnx", "b/model.onnx"]
    found = make_contenders({"a/d": cfg, "b/d": cfg}, ["cpu"], files, (64, 96), "cpu", False)
    assert list(found) == [("a/d", "cpu"), ("b/d", "cpu"), *[(path, "x") for path in files]]


def test_all_contenders_detect(monkeypatch):
    monkeypatch.setattr(contenders, "peers", lambda *_: {})
    configs = {"quick/dino_shapes": model_zoo.get_config("dino_shapes")}
    found = make_contenders(configs, ["cpu", "reference"], [], (64, 96), "cpu", False)
    assert [kind for _, kind in found][:3] == ["cpu", "reference", "optimized"]
    for (name, _), contender in found.items():
        assert name == "dino_shapes"
        (result,) = contender.workload()
        assert result["instances"].image_size == (64, 96)
        assert contender.model is not None


def test_training_steps_are_of_the_detector_as_it_is(monkeypatch):
    monkeypatch.setattr(contenders, "peers", lambda *_: {})
    configs = {"dino_shapes": model_zoo.get_config("dino_shapes")}
    found = make_contenders(configs, ["cpu"], ["not_read.onnx"], (64, 96), "cpu", True)
    assert list(found) == [("dino_shapes", "cpu")]


def test_transformers_detector_sees_an_image_of_the_same_size(monkeypatch):
    seen = []
    pytest.importorskip("transformers")
    monkeypatch.setattr(acceleration, "make_model", lambda peer: torch.nn.Identity())
    monkeypatch.setattr(acceleration, "infer", lambda model, inputs: seen.append(inputs))
    ((name, contender),) = peers((64, 96), False).items()
    contender.workload()
    assert name == ("deformable_detr_r50", "transformers")
    assert seen[0]["pixel_values"].shape == (1, 3, 64, 96)


@pytest.mark.parametrize("dialect", ["standard", "native"])
def test_an_exported_file_runs_in_every_runtime_that_can(tmp_path, dialect):
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    pytest.importorskip("openvino")
    kind = onnx.TensorProto.FLOAT
    image = onnx.helper.make_tensor_value_info("images", kind, ["B", 3, "H", "W"])
    result = onnx.helper.make_tensor_value_info("boxes", kind, ["B", 3, "H", "W"])
    node = onnx.helper.make_node("Neg", ["images"], ["boxes"])
    graph = onnx.helper.make_graph([node], "negation", [image], [result])
    opset = [onnx.helper.make_opsetid("", 18)]
    model = onnx.helper.make_model(graph, opset_imports=opset, ir_version=10)
    onnx.helper.set_model_props(model, {METADATA_KEY: json.dumps({"dialect": dialect})})
    onnx.save(model, tmp_path / "model.onnx")
    pixels = torch.arange(3 * 4 * 5, dtype=torch.uint8).view(3, 4, 5)
    found = exported(str(tmp_path / "model.onnx"), pixels)
    runtimes = ["onnxruntime", *["openvino"] * (dialect == "standard")]
    assert list(found) == [("model.onnx", runtime) for runtime in runtimes]
    for contender in found.values():
        negative = torch.as_tensor(contender.workload()[0])
        assert torch.equal(negative, -pixels[None].float())
