"""The LazyConfig example is the model of its yaml twin."""

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from detectron2.config import LazyConfig, instantiate
from detectron2.structures import Boxes, Instances

from lite_focus_detr import model_zoo

LAZY = Path(__file__).resolve().parents[2] / "configs" / "lazy" / "dino_r50.py"


@pytest.fixture(scope="module")
def lazy():
    return instantiate(LazyConfig.load(str(LAZY)).model)


@pytest.fixture(scope="module")
def from_yaml():
    return model_zoo.get("deformable_detr/dino_r50_12ep", device="cpu")


@pytest.fixture
def same_weights(lazy, from_yaml):
    lazy.load_state_dict(from_yaml.state_dict())
    return lazy, from_yaml


def inputs():
    generator = torch.Generator().manual_seed(0)
    sizes = ((96, 128), (128, 96))
    instances = [
        Instances(
            size,
            gt_boxes=Boxes(torch.tensor([[8.0, 8.0, 72.0, 60.0], [30.0, 20.0, 90.0, 80.0]])),
            gt_classes=torch.tensor([3, 41]),
        )
        for size in sizes
    ]
    images = [torch.rand(3, *size, generator=generator) * 255 for size in sizes]
    return [{"image": x, "instances": y} for x, y in zip(images, instances, strict=True)]


def test_both_have_the_same_tensors(lazy, from_yaml):
    shapes = [{k: v.shape for k, v in m.state_dict().items()} for m in (lazy, from_yaml)]
    assert shapes[0] == shapes[1]
    trained = [{k for k, v in m.named_parameters() if v.requires_grad} for m in (lazy, from_yaml)]
    assert trained[0] == trained[1]


PLAIN = (bool, int, float, str, type(None))


def settings(module):
    """Plain values that a module holds, also in objects of the package that are no modules."""
    found = {}
    for name, value in vars(module).items():
        if isinstance(value, PLAIN):
            found[name] = value
        elif isinstance(value, Sequence) and all(isinstance(x, PLAIN) for x in value):
            found[name] = list(value)
        elif type(value).__module__.startswith("lite_focus_detr"):
            found[name] = (type(value), settings(value))
    return found


def test_both_have_the_same_modules_with_the_same_settings(lazy, from_yaml):
    ours, theirs = dict(lazy.named_modules()), dict(from_yaml.named_modules())
    assert ours.keys() == theirs.keys()
    assert settings(from_yaml)["criterion"][1]["matcher"][1]["box_cost"] == 5.0
    for name in ours:
        assert type(ours[name]) is type(theirs[name])
        assert settings(ours[name]) == settings(theirs[name]), name


def test_both_detect_the_same(same_weights):
    with torch.no_grad():
        found = [m.eval()(inputs()) for m in same_weights]
    for ours, theirs in zip(*found, strict=True):
        for field in ("scores", "pred_classes"):
            assert torch.equal(ours["instances"].get(field), theirs["instances"].get(field))
        boxes = [x["instances"].pred_boxes.tensor for x in (ours, theirs)]
        assert torch.equal(*boxes)


def test_both_have_the_same_losses(same_weights):
    losses = []
    for model in same_weights:
        torch.manual_seed(0)
        with torch.no_grad():
            losses.append(model.train()(inputs()))
    assert losses[0].keys() == losses[1].keys()
    for name in losses[0]:
        assert torch.equal(losses[0][name], losses[1][name]), name
