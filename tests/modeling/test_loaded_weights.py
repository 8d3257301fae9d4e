"""Detectors whose weights were loaded by other programs than this package's."""

import pytest
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.engine import DefaultPredictor
from detectron2.modeling import build_model
from torch import nn

from lite_focus_detr.modeling.loaded_weights import training_only_prefixes

IMAGE = torch.zeros(48, 64, 3, dtype=torch.uint8).numpy()


@pytest.fixture
def weights(small_config, tmp_path):
    """A file with all weights of the small detector, and its configuration, naming the file."""
    torch.manual_seed(0)
    path = tmp_path / "w.pth"
    torch.save({"model": build_model(small_config).state_dict()}, path)
    small_config.MODEL.WEIGHTS = str(path)
    return path


def change(path, edit):
    contents = torch.load(path)
    edit(contents["model"])
    torch.save(contents, path)


def test_detectron2_predicts_with_weights_that_fit(small_config, weights):
    assert len(DefaultPredictor(small_config)(IMAGE)["instances"]) > 0


@pytest.mark.fault(area="checkpoints", expected="refused")
def test_detectron2_does_not_predict_with_weights_for_other_classes(small_config, weights):
    small_config.MODEL.DETR.NUM_CLASSES = 7
    predictor = DefaultPredictor(small_config)
    for _ in range(2):
        with pytest.raises(RuntimeError, match=r"not of this DeformableDETR: 2 tensors are in thi"):
            predictor(IMAGE)


@pytest.mark.fault(area="checkpoints", expected="refused")
def test_detectron2_does_not_predict_with_a_published_file(small_config, weights):
    def rename(tensors):
        for name in list(tensors):
            tensors[f"transformer.{name}"] = tensors.pop(name)

    change(weights, rename)
    with pytest.raises(RuntimeError, match=r"random \(.*\). Give the configuration .*Predictor"):
        DefaultPredictor(small_config)(IMAGE)


@pytest.mark.fault(area="checkpoints", expected="refused")
@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda x: x.update({"encoder.scorer.weight": torch.zeros(2)}), "are in the file alone"),
        (lambda x: x["neck.level_embed"].fill_(float("nan")), "have NaN .*neck.level_embed"),
        (lambda x: x.pop("heads.class_embed.0.bias"), "random .heads.class_embed.0.bias"),
    ],
)
def test_detectron2_does_not_predict_with_what_our_checkpointer_refuses(
    small_config, weights, edit, message
):
    change(weights, edit)
    with pytest.raises(RuntimeError, match=message):
        DefaultPredictor(small_config)(IMAGE)


def test_what_only_a_training_uses_may_be_missing_or_too_much(tiny_config, make_batch, tmp_path):
    with_noise, without = tiny_config("dino"), tiny_config("dino", **{"DENOISING.TYPE": "none"})
    for first, second in ((with_noise, without), (without, with_noise)):
        torch.save({"model": build_model(first).state_dict()}, tmp_path / "w.pth")
        model = build_model(second).eval()
        DetectionCheckpointer(model).load(str(tmp_path / "w.pth"))
        assert len(model(make_batch([1, 1]))) == 2


def test_a_training_may_start_from_a_part(tiny_config, make_batch):
    model = build_model(tiny_config("deformable"))
    part = {k: v for k, v in model.state_dict().items() if k.startswith("backbone.")}
    model.load_state_dict(part, strict=False)
    with pytest.raises(RuntimeError, match="would be random"):
        model.eval()(make_batch([1, 1]))
    model.train()(make_batch([1, 1]))
    assert len(model.eval()(make_batch([1, 1]))) == 2


def test_parts_that_files_have_filled_add_up(tiny_config, make_batch):
    model = build_model(tiny_config("deformable")).eval()
    state = model.state_dict()
    backbone = {k: v for k, v in state.items() if k.startswith("backbone.")}
    model.load_state_dict(backbone, strict=False)
    model.load_state_dict({k: v for k, v in state.items() if k not in backbone}, strict=False)
    assert len(model(make_batch([1, 1]))) == 2


class SelfishEncoder(nn.Module):
    training_only = ("teacher",)


def test_denoising_and_what_the_encoder_names_are_only_used_in_training():
    model = nn.Module()
    assert training_only_prefixes(model) == ("denoising.",)
    model.encoder = nn.Linear(4, 4)
    assert training_only_prefixes(model) == ("denoising.",)
    model.encoder = SelfishEncoder()
    assert training_only_prefixes(model) == ("denoising.", "encoder.teacher.")
