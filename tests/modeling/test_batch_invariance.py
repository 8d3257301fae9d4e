"""What is found in an image does not depend on the others of its batch."""

import re
from pathlib import Path

import pytest
import torch
from detectron2.modeling import build_model
from detectron2.modeling.postprocessing import detector_postprocess
from detectron2.structures import ImageList
from tests.conftest import FAMILIES

from lite_focus_detr.modeling import meta_arch

CONFIGS = Path(__file__).parents[2] / "configs"
#: Kinds of encoders, from all configurations.
ARCHITECTURES = sorted(
    {
        name
        for path in CONFIGS.rglob("*.yaml")
        for name in re.findall(r"META_ARCHITECTURE: (\w+)", path.read_text())
    }
)

STRIDES = (8, 16, 32, 64)


def outputs(model, levels, size, padded_size):
    images = ImageList(torch.empty(len(levels[0]), 3, *padded_size), size)
    tokens = model.flatten_levels(levels, images)
    memory = model.encoder(tokens, model.proposal_head).memory
    queries = model.query_selector(memory, tokens, model.proposal_head, None)
    return queries, model.decoder(queries, memory, tokens, model.heads).predictions


@pytest.mark.parametrize("num_queries", [20, 150])
@pytest.mark.parametrize(
    ("family", "architecture", "attention"),
    [
        *((family, "DeformableDETR", "deformable") for family in FAMILIES),
        ("dino", "LiteDETR", "deformable"),
        ("dino", "LiteDETR", "key_aware"),
    ],
)
def test_from_the_necks_maps_on_an_image_alone_equals_the_same_in_a_padded_batch(
    tiny_config, family, architecture, attention, num_queries
):
    torch.manual_seed(0)
    changes = {"NUM_QUERIES": num_queries, "DECODER.POSITION_FRAME": "image"}
    changes |= {"ENCODER.ATTENTION": attention, "DECODER.ATTENTION": attention}
    cfg = tiny_config(family, **changes)
    cfg.MODEL.META_ARCHITECTURE = architecture
    model = build_model(cfg).double().eval()
    small, large = (64, 96), (192, 160)  # The small image has 128 tokens.
    alone, batch = [], []
    for stride in STRIDES:
        height, width = -(-small[0] // stride), -(-small[1] // stride)
        image = torch.randn(1, 32, height, width, dtype=torch.float64)
        padded = torch.randn(2, 32, -(-large[0] // stride), -(-large[1] // stride)).double() * 100
        padded[0, :, :height, :width] = image[0]
        alone.append(image)
        batch.append(padded)
    with torch.no_grad():
        queries, expected = outputs(model, alone, [small], small)
        _, found = outputs(model, batch, [small, large], large)
    # An image with fewer tokens than queries has fewer queries when it is alone.
    count = queries.content.shape[1]
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours.logits[:1, :count], theirs.logits, rtol=0, atol=1e-10)
        torch.testing.assert_close(ours.boxes[:1, :count], theirs.boxes, rtol=0, atol=1e-10)


def use_swin(cfg):
    cfg.MODEL.BACKBONE.NAME = "build_swin_backbone"
    cfg.MODEL.DETR.IN_FEATURES = ["p1", "p2", "p3"]
    cfg.MODEL.SWIN.EMBED_DIM, cfg.MODEL.SWIN.WINDOW_SIZE = 8, 4
    cfg.MODEL.SWIN.DEPTHS, cfg.MODEL.SWIN.NUM_HEADS = [1, 1, 1, 1], [1, 1, 2, 2]


def use_resnet(cfg):
    cfg.MODEL.BACKBONE.NAME = "build_resnet_backbone"
    cfg.MODEL.RESNETS.DEPTH, cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 18, 64
    cfg.MODEL.RESNETS.OUT_FEATURES = ["res3", "res4", "res5"]


#: The first is that of ``tiny_config``.
BACKBONES = {"timm": lambda cfg: None, "swin": use_swin, "resnet": use_resnet}
#: Of the images of a batch of eight; three have one size.
SIZES = [(64, 96), (192, 160), (64, 96), (96, 64), (50, 70), (128, 128), (64, 96), (33, 200)]


@pytest.fixture
def build(tiny_config):
    """Build a detector with random weights and selections that are not decided by ties."""

    def build(architecture, family="dino", backbone="timm", dtype=torch.float64, **changes):
        torch.manual_seed(0)
        cfg = tiny_config(family, **changes)
        cfg.MODEL.META_ARCHITECTURE = architecture
        cfg.MODEL.LITE_FOCUS.KEEP_RATIOS = [0.3]
        BACKBONES[backbone](cfg)
        return build_model(cfg).to(dtype).eval()

    return build


@torch.no_grad()
def assert_every_image_is_as_if_alone(model, tolerance):
    generator = torch.Generator().manual_seed(1)
    inputs = [{"image": 255 * torch.rand(3, *size, generator=generator)} for size in SIZES]
    alone = []
    for x in inputs:
        images = model.preprocess_image([x])  # as published, at batch 1
        [found] = model.select_detections(model.forward_outputs(images), images)
        alone.append(detector_postprocess(found, *found.image_size))
    for batch in ([0], [0, 1], [1, 0], [0, 2], range(8), range(7, -1, -1)):
        found = model([inputs[index] for index in batch])
        assert len(found) == len(batch)
        for index, result in zip(batch, found, strict=True):
            result, expected = result["instances"], alone[index]
            assert result.image_size == expected.image_size == SIZES[index]
            assert torch.equal(result.pred_classes, expected.pred_classes)
            difference = (result.scores - expected.scores).abs().max()
            assert difference <= tolerance
            boxes = result.pred_boxes.tensor - expected.pred_boxes.tensor
            assert boxes.abs().max() <= tolerance * max(SIZES[index])


@pytest.mark.fault(area="evaluation", expected="survived")
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_neighbours_of_any_size_change_nothing(build, architecture, family):
    assert_every_image_is_as_if_alone(build(architecture, family), 1e-10)


@pytest.mark.fault(area="evaluation", expected="survived")
@pytest.mark.parametrize("backbone", ["swin", "resnet"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_neighbours_of_any_size_change_nothing_with_another_backbone(build, architecture, backbone):
    assert_every_image_is_as_if_alone(build(architecture, backbone=backbone), 1e-10)


@pytest.mark.fault(area="evaluation", expected="survived")
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_neighbours_of_any_size_change_nothing_in_single_precision(build, architecture):
    changes = {"ENCODER.ATTENTION": "key_aware", "DECODER.ATTENTION": "key_aware"}
    model = build(architecture, dtype=torch.float32, **changes)
    assert_every_image_is_as_if_alone(model, 1e-5)


def test_images_of_one_size_are_a_batch():
    inputs = [{"image": torch.empty(3, *size)} for size in SIZES]
    by_size = [[0, 2, 6], [1], [3], [4], [5], [7]]
    assert meta_arch.group_images(inputs) == by_size
    assert meta_arch.group_images([]) == []
