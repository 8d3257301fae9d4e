import dataclasses

import numpy as np
import pytest
import torch
from detectron2.modeling import build_model
from detectron2.utils.events import EventStorage

from lite_focus_detr.modeling.encoder import focus
from lite_focus_detr.modeling.encoder.foreground import (
    ForegroundRule,
    assign_foreground,
    foreground_loss,
    foreground_recall,
)
from lite_focus_detr.modeling.structures import FeatureTokens, Targets, TokenSelection

RANGES = [(-1, 64), (64, 128), (128, 256), (256, 999999)]
SHAPES = ((32, 40), (16, 20), (8, 10), (4, 5))


def label(boxes, distance="max_side", ranges=RANGES, ranges_at=0):
    """Labels of a 256 x 320 image, one map for each level; boxes (x, y, w, h) in pixels."""
    tokens = FeatureTokens(
        *[torch.empty(0)] * 5,
        spatial_shapes=SHAPES,
        num_valid=(1700,),
        image_sizes=((256, 320),),
        strides=(8, 16, 32, 64),
    )
    boxes = torch.tensor(boxes, dtype=torch.float32).reshape(1, -1, 4)
    boxes = torch.cat((boxes[..., :2] + boxes[..., 2:] / 2, boxes[..., 2:]), -1)
    boxes = boxes / torch.tensor([320.0, 256.0, 320.0, 256.0])
    targets = Targets(torch.zeros(1, 1, dtype=torch.int64), boxes, (boxes.shape[1],))
    rule = ForegroundRule(ranges, ranges_at, distance)
    labels = assign_foreground(tokens, targets, rule)[0]
    parts = labels.split([height * width for height, width in SHAPES])
    return [part.view(shape) for part, shape in zip(parts, SHAPES, strict=True)]


def test_a_small_box_is_found_on_the_finest_level():
    levels = label([[16, 24, 40, 32]])  # Centres 4, 12, 20, ... strictly inside.
    expected = torch.zeros(32, 40, dtype=torch.bool)
    expected[3:7, 2:7] = True
    assert torch.equal(levels[0], expected)
    assert not any(level.any() for level in levels[1:])


def test_a_token_on_the_side_of_a_box_is_outside():
    assert label([[4, 4, 16, 16]])[0].nonzero().tolist() == [[1, 1]]


def test_max_side_is_the_distance_of_the_token_to_the_farthest_side():
    levels = label([[0, 0, 100, 100]])
    for index, (stride, level) in enumerate(zip((8, 16), levels[:2], strict=True)):
        height, width = SHAPES[index]
        for row in range(height):
            for column in range(width):
                x, y = column * stride + stride // 2, row * stride + stride // 2
                far = max(x, y, 100 - x, 100 - y)
                inside = x < 100 and y < 100
                low, high = RANGES[index]
                assert level[row, column].item() == (inside and low < far <= high)


def test_half_size_takes_one_level_for_the_whole_box():
    levels = label([[0, 0, 200, 100]], "half_size")  # Half of the longer side is 100.
    assert [level.any().item() for level in levels] == [False, True, False, False]
    assert levels[1].sum() == 12 * 6  # Centres 8, 24, ... 184 and 8, ... 88.


def test_overlapping_ranges_find_a_box_on_two_levels():
    overlapping = [(-1, 64), (64, 256), (128, 512), (256, 999999)]
    levels = label([[0, 0, 300, 60]], "half_size", overlapping)
    assert [level.any().item() for level in levels] == [False, True, True, False]


def test_an_image_without_boxes_has_no_foreground():
    assert not any(level.any() for level in label([]))


def test_an_image_without_foreground_is_not_divided():
    logits = torch.tensor([[1.0, -2.0], [0.5, 3.0]])
    wanted = torch.tensor([[False, False], [True, True]])
    p = logits.sigmoid()
    background = (-(0.75 * p**2 * (1 - p).log()))[0].sum()
    foreground = (-(0.25 * (1 - p) ** 2 * p.log()))[1].sum() / 2
    expected = (background + foreground) / 2
    torch.testing.assert_close(foreground_loss(logits, wanted), expected)


def test_the_loss_of_a_sure_mistake_is_finite():
    logits = torch.tensor([[40.0]], requires_grad=True)
    loss = foreground_loss(logits, torch.tensor([[False]]))
    loss.backward()
    assert loss.item() == pytest.approx(30.0, rel=1e-3)
    assert logits.grad.item() == pytest.approx(0.75, rel=1e-3)


@pytest.fixture
def model(tiny_config):
    torch.manual_seed(0)
    cfg = tiny_config("dino")
    cfg.MODEL.META_ARCHITECTURE = "FocusDETR"
    cfg.MODEL.FOCUS.KEEP_RATIOS = [0.5, 0.3]
    cfg.MODEL.FOCUS.OBJECT_TOKENS = 10
    return build_model(cfg).train()


def test_the_selector_learns_from_the_foreground_loss_only(model, make_batch):
    losses = model(make_batch((3, 1)))
    others = sum(value for name, value in losses.items() if name != "loss_foreground")
    scorer = list(model.encoder.scorer.parameters())
    gradients = torch.autograd.grad(others, scorer, retain_graph=True, allow_unused=True)
    assert all(gradient is None for gradient in gradients)
    gradients = torch.autograd.grad(losses["loss_foreground"], scorer)
    assert all(gradient.abs().sum() > 0 for gradient in gradients[1:])


def test_recall_of_the_first_and_the_last_layer_is_logged(model, make_batch):
    with EventStorage() as storage:
        model(make_batch((3, 1)))
        first, last = (
            storage.latest()[f"focus/foreground_recall_layer{layer}"][0] for layer in (0, 1)
        )
    assert 0 <= last <= first <= 1


def test_all_tokens_kept_recall_all_foreground(model, make_batch):
    model.encoder.settings = dataclasses.replace(model.encoder.settings, keep_ratios=[1.0, 1.0])
    with EventStorage() as storage:
        model(make_batch((3, 1)))
        assert storage.latest()["focus/foreground_recall_layer0"][0] == 1


def test_fillers_are_not_recalled():
    wanted = torch.tensor([[True, True, False, False], [True, False, True, True]])
    kept = torch.tensor([[True, True], [True, False]])  # The second image may keep one token.
    selection = TokenSelection(torch.tensor([[0, 2], [3, 2]]), kept)
    assert foreground_recall(selection, wanted) == pytest.approx(2 / 5)
    assert foreground_recall(selection, torch.zeros_like(wanted)) == 1


def test_ranges_shrink_with_the_short_side_of_the_image():
    box = [[16, 24, 40, 32]]
    assert label(box)[0].any()
    # 256 is 0.32 of 800: the finest level is for distances of up to 20.48 pixels.
    levels = label(box, ranges_at=800)
    for level, stride, (low, high) in zip(levels, (8, 16, 32, 64), RANGES, strict=True):
        for row, column in np.ndindex(*level.shape):
            x, y = column * stride + stride // 2, row * stride + stride // 2
            sides = (x - 16, 56 - x, y - 24, 56 - y)
            expected = min(sides) > 0 and 0.32 * low < max(sides) <= 0.32 * high
            assert level[row, column].item() == expected
    assert levels[1].any()


def test_levels_without_foreground_are_named_once(model, make_batch, caplog, monkeypatch):
    monkeypatch.setattr(focus, "LEVEL_CHECK_ITERATIONS", 3)
    batch = make_batch((3, 1))  # Boxes below 30 pixels: the finest level is enough.
    messages = []
    for _ in range(5):
        model(batch)
        messages.append([record.getMessage() for record in caplog.records])
    assert messages[1] == []
    (message,) = messages[4]
    assert message == messages[2][0]
    assert message.startswith("Levels 1, 2, 3 (strides 16, 32, 64) had no foreground token in the")
    assert "MODEL.FOCUS.SCALE_RANGES_AT 800" in message
