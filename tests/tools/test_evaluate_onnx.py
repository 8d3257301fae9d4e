"""Evaluation of exported files; with a good file in ``test_export_model``."""

import pytest

from lite_focus_detr.tools import evaluate_onnx


def test_a_missing_file_is_one_line(small_config_file, tmp_path, monkeypatch):
    monkeypatch.setattr(evaluate_onnx, "setup_logger", lambda **_: None)
    missing = str(tmp_path / "missing.onnx")
    with pytest.raises(SystemExit, match=rf"^error: there is no file {missing}"):
        evaluate_onnx.main(["--config-file", small_config_file, "--model", missing])
