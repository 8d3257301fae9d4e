import pytest
import torch
from torch import nn

from lite_focus_detr.engine.checkpoint_checks import (
    FileWeights,
    require_all,
    require_finite,
    require_match,
    same_shapes,
)


class SelfishEncoder(nn.Module):
    """Learns with a part that it does not need afterwards."""

    training_only = ("teacher",)

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 4)
        self.teacher = nn.Linear(4, 1)


class Detector(nn.Module):
    def __init__(self, encoder):
        super().__init__()
        self.backbone = nn.Linear(4, 4)
        self.encoder = encoder
        self.denoising = nn.Embedding(3, 4)


@pytest.fixture
def model():
    return Detector(SelfishEncoder())


def weights_of(model, *without, **more):
    tensors = {k: v for k, v in model.state_dict().items() if not k.startswith(without)}
    return FileWeights("a.pth", tensors, "lite_focus_detr", **more)


def test_inference_may_do_without_what_only_a_training_uses(model, make_cfg):
    require_all(weights_of(model, "denoising.", "encoder.teacher."), model, make_cfg())
    unplaced = ["encoder.teacher.other.weight", "denoising.more.weight"]
    require_all(weights_of(model, unplaced=unplaced), model, make_cfg())


def test_inference_may_not_do_without_anything_else(model, make_cfg):
    with pytest.raises(ValueError, match=r"leaves 2 parameters .*encoder\.layer\.weight"):
        require_all(weights_of(model, "encoder.layer."), model, make_cfg())
    with pytest.raises(ValueError, match=r"a\.pth is of another detector: .*encoder\.teachers\.b"):
        require_all(weights_of(model, unplaced=["encoder.teachers.b"]), model, make_cfg())


def test_half_of_the_tensors_and_of_the_weights_must_fit(model, make_cfg):
    require_match(weights_of(model, "denoising."), model, make_cfg())
    with pytest.raises(ValueError, match=r"fits only 3 of 7 tensors") as error:
        require_match(weights_of(model, "backbone.", "encoder.layer."), model, make_cfg())
    table = str(error.value).splitlines()[1:]
    assert any(row.split() == ["encoder.layer", "0", "0", "2"] for row in table)
    assert any(row.split() == ["encoder.teacher", "2", "0", "0"] for row in table)


def test_a_tensor_of_another_shape_is_in_the_table_with_both_shapes(model, make_cfg):
    tensors = {name: torch.zeros(1) for name in model.state_dict()}
    with pytest.raises(ValueError, match=r"fits only 1 of 7 tensors") as error:
        require_match(FileWeights("a.pth", tensors, "dino"), model, make_cfg())
    assert "(1,)                 (4, 4)" in str(error.value)


def test_weights_that_are_not_finite_are_named(model):
    weights = weights_of(model)
    require_finite(weights)
    weights.tensors["encoder.layer.bias"][1] = float("inf")
    with pytest.raises(ValueError, match=r"a\.pth has NaN or infinite .* encoder\.layer\.bias;"):
        require_finite(weights)


def test_shapes_are_the_same_if_names_and_sizes_are():
    state = {"a": torch.zeros(2), "b": torch.zeros(3)}
    assert same_shapes(state, {"b": torch.ones(3), "a": torch.ones(2)})
    assert not same_shapes(state, {"a": torch.zeros(2)})
    assert not same_shapes({"a": torch.zeros(2)}, state)
    assert not same_shapes(state, {"a": torch.zeros(2), "b": torch.zeros(3, 1)})


def test_other_classes_are_blamed_for_missing_class_heads_only(make_cfg):
    encoder = SelfishEncoder()
    encoder.class_embed = nn.Linear(4, 3)
    model = Detector(encoder)
    with pytest.raises(ValueError, match=r"the file has 7 classes, .*set MODEL.DETR.NUM_CLASSES 7"):
        require_all(weights_of(model, "encoder.class_embed.", other_classes=7), model, make_cfg())
    missing = ("encoder.class_embed.", "encoder.layer.")
    with pytest.raises(ValueError, match=r"leaves 4 parameters .*encoder\.layer\.weight"):
        require_all(weights_of(model, *missing, other_classes=7), model, make_cfg())


def test_a_large_backbone_does_not_stand_for_the_rest_of_the_model(make_cfg):
    model = Detector(SelfishEncoder())
    model.backbone = nn.Sequential(*(nn.Linear(20, 20) for _ in range(5)))
    require_match(weights_of(model, "denoising."), model, make_cfg())
    with pytest.raises(ValueError, match=r"only 1 of 5 tensors .* of the transformer of this"):
        require_match(weights_of(model, "encoder."), model, make_cfg())
