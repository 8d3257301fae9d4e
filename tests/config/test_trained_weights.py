"""Trained weights by name; the tests of the shipped ones are in test_model_zoo.py."""

import pytest
import torch
from detectron2.modeling import build_model

from lite_focus_detr import Predictor, model_zoo
from lite_focus_detr.config import trained_weights
from lite_focus_detr.engine import DetrCheckpointer
from lite_focus_detr.engine.weights_file import find_weights


@pytest.fixture
def dino_shapes(tmp_path, monkeypatch):
    """A model whose weights are found as dino_shapes."""
    monkeypatch.setattr(trained_weights, "FOLDER", tmp_path / "shipped")
    (tmp_path / "shipped").mkdir()
    cfg = model_zoo.get_config("dino_shapes", ["MODEL.DEVICE", "cpu"])
    model = build_model(cfg)
    torch.save({"model": model.state_dict()}, tmp_path / "shipped" / "dino_shapes.pth")
    (tmp_path / "shipped" / "dino_shapes.md").touch()
    monkeypatch.chdir(tmp_path)
    return model


def test_names_are_those_of_the_files(dino_shapes, tmp_path):
    assert trained_weights.trained_names() == ["dino_shapes"]
    file = trained_weights.trained_weights_file("dino_shapes")
    assert file == str(tmp_path / "shipped/dino_shapes.pth")
    with pytest.raises(KeyError, match="lite_dino_shapes"):
        trained_weights.trained_weights_file("lite_dino_shapes")


def test_a_file_of_that_name_comes_first(dino_shapes, tmp_path):
    assert find_weights("dino_shapes") == str(tmp_path / "shipped/dino_shapes.pth")
    (tmp_path / "dino_shapes").touch()
    assert find_weights("dino_shapes") == "dino_shapes"


def test_model_weights_and_the_predictor_take_the_name(dino_shapes):
    cfg = model_zoo.get_config("dino_shapes", ["MODEL.DEVICE", "cpu"])
    model = build_model(cfg)
    DetrCheckpointer(model, cfg=cfg, for_inference=True).load("dino_shapes")
    predictor = Predictor("dino_shapes", config="dino_shapes", device="cpu")
    for loaded in (model, predictor.model):
        for found, expected in zip(loaded.parameters(), dino_shapes.parameters(), strict=True):
            torch.testing.assert_close(found, expected, rtol=0, atol=0)


def test_the_names_are_told_where_there_is_no_such_file(dino_shapes):
    cfg = model_zoo.get_config("dino_shapes", ["MODEL.DEVICE", "cpu"])
    with pytest.raises(
        FileNotFoundError, match=r"dino_shape does not exist.* along are dino_shapes$"
    ):
        DetrCheckpointer(dino_shapes, cfg=cfg).load("dino_shape")


def test_weights_that_are_not_installed_are_told_apart_from_those_that_do_not_exist(dino_shapes):
    (trained_weights.FOLDER / "dino_shapes.pth").unlink()
    for find in (find_weights, model_zoo.get_weights_file):
        with pytest.raises(
            FileNotFoundError, match=r"dino_shapes\.pth are not in this wheel: take"
        ):
            find("dino_shapes")
