"""Configurations by name."""

from pathlib import Path

import pytest
import torch

from lite_focus_detr import model_zoo
from lite_focus_detr.config.trained_weights import trained_names

CONFIGS = Path(__file__).parents[1] / "configs"


@pytest.mark.parametrize(
    "name",
    [
        "deformable_detr/dino_r50_12ep",
        "deformable_detr/dino_r50_12ep.yaml",
        "dino_r50_12ep",
        "dino_r50_12ep.yaml",
    ],
)
def test_a_configuration_is_found_by_its_path_or_its_leaf(name):
    expected = CONFIGS / "deformable_detr" / "dino_r50_12ep.yaml"
    assert Path(model_zoo.get_config_file(name)).samefile(expected)


def test_an_unknown_name_lists_the_known_ones():
    known = r"dino_r51 is not in .*deformable_detr/dino_r50_12ep"
    with pytest.raises(ValueError, match=known) as error:
        model_zoo.get_config_file("dino_r51")
    assert "_base_/" not in str(error.value)


def test_an_ambiguous_name_lists_its_candidates(tmp_path, monkeypatch):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "same.yaml").touch()
    monkeypatch.setattr(model_zoo, "CONFIG_ROOTS", (tmp_path,))
    with pytest.raises(ValueError, match="same is ambiguous; choose from: a/same, b/same"):
        model_zoo.get_config_file("same")


def test_a_configuration_holds_what_its_files_say():
    cfg = model_zoo.get_config("deformable_detr/dino_r50_12ep")
    assert cfg.SOLVER.MAX_ITER == 90000
    assert cfg.MODEL.DETR.QUERY_SELECTION == "mixed"
    assert not cfg.is_frozen()


def test_models_without_trained_weights_say_which_have_some():
    line = r"no trained weights .* dino_r50_12ep, only for .*dino_shapes.* MODEL\.WEIGHTS"
    with pytest.raises(RuntimeError, match=line):
        model_zoo.get("dino_r50_12ep", trained=True)


@pytest.mark.parametrize("name", trained_names())
def test_a_trained_model_has_the_weights_of_its_file(name):
    model = model_zoo.get(f"quick_schedules/{name}", trained=True, device="cpu")
    weights = torch.load(model_zoo.get_weights_file(name), weights_only=True)["model"]
    found = model.state_dict()
    assert found.keys() == weights.keys()
    for key, weight in weights.items():
        torch.testing.assert_close(found[key], weight.to(found[key].dtype), rtol=0, atol=0)
    assert model.training


def test_a_model_is_built_on_the_wanted_device():
    model = model_zoo.get("deformable_detr/deformable_detr_r50_50ep", device="meta")
    assert {parameter.device.type for parameter in model.parameters()} == {"meta"}
    assert model.training


def test_importing_the_zoo_does_not_need_pkg_resources():
    source = Path(model_zoo.__file__).read_text()
    assert "detectron2.model_zoo" not in source
    assert "pkg_resources" not in source


def test_without_a_gpu_a_model_is_built_on_the_cpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert model_zoo.get("dino_shapes").device.type == "cpu"
