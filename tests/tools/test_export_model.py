"""The command that exports a detector, from a trained one to a file that other programs run."""

import json

import numpy as np
import onnx
import pytest
import torch
from detectron2.modeling import build_model
from PIL import Image

from lite_focus_detr.export import onnx_file
from lite_focus_detr.export.runtime import read_contents, start_session
from lite_focus_detr.tools import evaluate, export_model


@pytest.fixture
def weights(small_config, small_config_file, tmp_path):
    torch.manual_seed(0)
    path = tmp_path / "weights.pth"
    torch.save({"model": build_model(small_config).state_dict()}, path)
    return ["--config-file", small_config_file, "--weights", str(path)]


def test_a_file_for_bytes_is_exported_checked_and_evaluated(
    weights, small_config, tmp_path, capsys, monkeypatch
):
    output, photo = tmp_path / "model.onnx", tmp_path / "photo.png"
    pixels = np.random.default_rng(0).integers(0, 255, (90, 70, 3), np.uint8)
    Image.fromarray(pixels).save(photo)
    options = ["--layout", "hwc", "--dtype", "uint8", "--resize", "--images", str(photo)]
    options += ["--opts", "TEST.OPTIMIZE", "float32"]  # is for detection in PyTorch
    export_model.main([*weights, "--output", str(output), *options])
    assert f"Wrote {output}" in capsys.readouterr().out
    (images,) = (session := start_session(str(output))).get_inputs()
    assert (images.type, images.shape[3]) == ("tensor(uint8)", 3)
    sides = [small_config.INPUT.MIN_SIZE_TEST, small_config.INPUT.MAX_SIZE_TEST]
    assert read_contents(session)["resize"] == sides

    found = []
    monkeypatch.setattr(evaluate, "run", lambda main, args: found.append(main(args)["bbox"]["AP"]))
    for options in ([], ["--onnx", str(output)]):
        evaluate.main([*weights, *options])
    assert found[1] == pytest.approx(found[0], abs=0.1)

    with pytest.raises(SystemExit, match=r"model\.onnx takes images in RGB order.* is BGR"):
        evaluate.main([*weights, "--onnx", str(output), "--opts", "INPUT.FORMAT", "BGR"])

    (entry,) = (model := onnx.load(output)).metadata_props
    contents = json.loads(entry.value)
    for classes, text in (
        ({"class_names": ["rbc", "wbc", "platelet"]}, "3 classes rbc wbc platelet"),
        ({"class_names": None, "num_classes": 80}, "80 classes"),
    ):
        entry.value = json.dumps(contents | classes)
        onnx.save(model, output)
        with pytest.raises(SystemExit, match=rf"has {text}, and the detector .* 3 classes \w+"):
            evaluate.main([*weights, "--onnx", str(output)])


def test_mistakes_are_one_line_and_leave_no_file(weights, tmp_path, monkeypatch, capsys):
    output = tmp_path / "model.onnx"
    normalised_bytes = ["--dtype", "uint8", "--normalized"]
    with pytest.raises(SystemExit, match=r"^error: normalised images are float32"):
        export_model.main([*weights, "--output", str(output), *normalised_bytes])
    with pytest.raises(SystemExit, match=r"^error: cannot write .*there is no folder"):
        export_model.main([*weights, "--output", str(tmp_path / "none" / "model.onnx")])
    monkeypatch.setattr(onnx_file, "PACKAGES", ("no_such_package",))
    with pytest.raises(SystemExit, match=r"^error: not installed: no_such_package"):
        export_model.main([*weights, "--output", str(output)])
    assert not output.exists()
