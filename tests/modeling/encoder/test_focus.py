import pytest
import torch
from detectron2.modeling import build_model
from detectron2.utils.events import EventStorage

from lite_focus_detr.config import load_config
from lite_focus_detr.modeling.encoder import foreground


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
    model.encoder.keep_ratios = [1.0, 1.0]
    with EventStorage() as storage:
        model(make_batch((3, 1)))
        assert storage.latest()["focus/foreground_recall_layer0"][0] == 1


def test_levels_without_foreground_are_named_once(model, make_batch, caplog, monkeypatch):
    monkeypatch.setattr(foreground, "LEVEL_CHECK_ITERATIONS", 3)
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


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["MODEL.DETR.ENCODER.NUM_LAYERS", 3], "KEEP_RATIOS has 6 entries.*is 3"),
        (["MODEL.FOCUS.KEEP_RATIOS", [0.1, 0.2, 0.2, 0.1, 0.1, 0.1]], "not rise"),
        (["MODEL.FOCUS.KEEP_RATIOS", [1.1] * 6], r"must lie in \(0, 1\]"),
        (["MODEL.FOCUS.KEEP_RATIOS", [0.5] * 5 + [0.0]], r"must lie in \(0, 1\]"),
        (["MODEL.FOCUS.SCALE_RANGES", [[-1, 64]]], "SCALE_RANGES has 1 entries"),
        (["MODEL.FOCUS.SCALE_RANGES", [[-1], [1], [2], [3]]], "must hold a .low, high."),
        (["MODEL.FOCUS.SCALE_RANGES", [[64, -1]] * 4], "must hold a .low, high."),
        (
            ["MODEL.FOCUS.SCALE_RANGES", [1, 2, 3, 4]],
            r"SCALE_RANGES is .*; it must be like \[\[-1, 64",
        ),
        (["MODEL.FOCUS.SCALE_RANGES", [["-1", 64]] * 4], "it must be like"),
        (["MODEL.FOCUS.KEEP_RATIOS", ["0.5"] * 6], r"it must be like \[0.5, 0.4"),
        (["MODEL.FOCUS.MODULATION", "sideways"], "MODULATION is .sideways.; it must be"),
        (["MODEL.FOCUS.DISTANCE", "center"], "DISTANCE is 'center'"),
        (["MODEL.FOCUS.VALUE", "fresh"], "VALUE is 'fresh'"),
        (["MODEL.FOCUS.OBJECT_SCORE", "both"], "OBJECT_SCORE is 'both'"),
        (["MODEL.FOCUS.OBJECT_TOKENS", -1], "OBJECT_TOKENS is -1; .* at least 0"),
        (["MODEL.FOCUS.LOSS_WEIGHT", -0.5], "LOSS_WEIGHT is -0.5; .* at least 0"),
    ],
)
def test_impossible_mixtures_are_refused_with_the_keys_named(options, message):
    with pytest.raises(ValueError, match=message):
        load_config("", ["MODEL.META_ARCHITECTURE", "FocusDETR", *options])


def test_the_defaults_are_valid():
    assert load_config("", ["MODEL.META_ARCHITECTURE", "FocusDETR"]).MODEL.FOCUS.KEEP_RATIOS


def test_a_level_that_had_foreground_in_any_batch_is_not_named(
    model, make_batch, caplog, monkeypatch
):
    monkeypatch.setattr(foreground, "LEVEL_CHECK_ITERATIONS", 2)
    batch = make_batch((3, 1))
    large = make_batch((1, 1))
    for inputs, (height, width) in zip(large, ((64, 96), (80, 64)), strict=True):
        inputs["instances"].gt_boxes.tensor[:] = torch.tensor([[0.0, 0.0, width, height]])
    model(large)  # Tokens of the second level are 64 to 128 pixels from a side.
    model(batch)
    (record,) = caplog.records
    assert record.getMessage().startswith("Levels 2, 3 (strides 32, 64) had no foreground")


def test_the_loss_has_its_weight(model, make_batch):
    losses = []
    for weight in (1.5, 4.5):
        model.encoder.loss_weight = weight
        torch.manual_seed(0)
        losses.append(model(make_batch((3, 1)))["loss_foreground"].item())
    assert losses[1] == pytest.approx(3 * losses[0], rel=1e-5)
