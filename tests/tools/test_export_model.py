"""The command that exports a detector, from a trained one to a file that other programs run."""

import numpy as np
import pytest
import torch
from detectron2.modeling import build_model
from PIL import Image

from lite_focus_detr.export import onnx_file
from lite_focus_detr.export.verification import start_session
from lite_focus_detr.tools import evaluate_onnx, export_model


@pytest.fixture
def weights(small_config, small_config_file, tmp_path):
    torch.manual_seed(0)
    path = tmp_path / "weights.pth"
    torch.save({"model": build_model(small_config).state_dict()}, path)
    return ["--config-file", small_config_file, "--weights", str(path)]


def test_a_file_for_bytes_is_exported_checked_and_evaluated(
    weights, small_config_file, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(evaluate_onnx, "setup_logger", lambda **_: None)
    output, photo = tmp_path / "model.onnx", tmp_path / "photo.png"
    pixels = np.random.default_rng(0).integers(0, 255, (90, 70, 3), np.uint8)
    Image.fromarray(pixels).save(photo)
    options = ["--layout", "hwc", "--dtype", "uint8", "--images", str(photo)]
    options += ["--opts", "TEST.OPTIMIZE", "float32"]  # is for detection in PyTorch
    export_model.main([*weights, "--output", str(output), *options])
    assert f"Wrote {output}" in capsys.readouterr().out
    (images,) = start_session(str(output)).get_inputs()
    assert (images.type, images.shape[3]) == ("tensor(uint8)", 3)

    results = evaluate_onnx.main(["--config-file", small_config_file, "--model", str(output)])
    expected = evaluate_with_pytorch(weights)
    assert results["bbox"]["AP"] == pytest.approx(expected["bbox"]["AP"], abs=0.1)


def evaluate_with_pytorch(weights):
    from lite_focus_detr.engine import DetrTrainer
    from lite_focus_detr.predictor import Predictor, load_inference_config

    cfg = load_inference_config(weights[1], ["MODEL.WEIGHTS", weights[3]])
    return DetrTrainer.test(cfg, Predictor(cfg).model)


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
