"""What a detector does with one image."""

import pytest
import torch
from detectron2.modeling import build_model

from lite_focus_detr.analysis.inspection import KEPT, OBJECT, detector_name, inspect_image


@pytest.mark.parametrize(
    ("architecture", "attention", "name"),
    [
        ("DeformableDETR", "deformable", "DeformableDETR"),
        ("LiteDETR", "key_aware", "LiteDETR, key-aware"),
        ("FocusDETR", "deformable", "FocusDETR, keep ratio 0.4"),
    ],
)
def test_a_detector_is_named_by_what_its_encoder_does(tiny_config, architecture, attention, name):
    cfg = tiny_config()
    cfg.MODEL.META_ARCHITECTURE = architecture
    cfg.MODEL.DETR.ENCODER.ATTENTION = attention
    cfg.MODEL.FOCUS.KEEP_RATIOS = [0.5, 0.3]
    model = build_model(cfg)
    assert detector_name(model) == name


def test_the_name_has_the_budget_at_run_time(tiny_config):
    cfg = tiny_config()
    cfg.MODEL.META_ARCHITECTURE = "FocusDETR"
    cfg.MODEL.FOCUS.KEEP_RATIOS = [0.5, 0.3]
    model = build_model(cfg)
    model.set_budget(keep_ratio=0.25)
    assert detector_name(model) == "FocusDETR, keep ratio 0.25"


@pytest.fixture
def inspected(tiny_config):
    """Inspect an image of 64 x 96 pixels, of a file of twice the size, with a detector."""

    def run(architecture, **options):
        torch.manual_seed(0)
        cfg = tiny_config()
        cfg.MODEL.META_ARCHITECTURE = architecture
        cfg.MODEL.FOCUS.KEEP_RATIOS = [0.5, 0.3]
        cfg.MODEL.FOCUS.OBJECT_TOKENS = 5
        model = build_model(cfg).eval()
        image = torch.rand(3, 64, 96) * 255
        inputs = {"image": image, "height": 128, "width": 192}
        return model, inputs, inspect_image(model, inputs, rounds=1, **options)

    return run


# Of the levels of 8 x 12, 4 x 6, 2 x 3 and 1 x 2 tokens.
ALL = [96, 24, 6, 2]


def counts(layers, state):
    return [[int((x >= state).sum()) for x in layer.split(ALL)] for layer in layers]


def test_a_dense_encoder_updates_all_tokens_in_all_layers(inspected):
    _, _, seen = inspected("DeformableDETR")
    assert seen.spatial_shapes == ((8, 12), (4, 6), (2, 3), (1, 2))
    assert counts(seen.layers, KEPT) == [ALL, ALL]


def test_a_lite_encoder_updates_low_levels_in_the_last_layer_of_a_block(inspected):
    _, _, seen = inspected("LiteDETR")
    assert counts(seen.layers, KEPT) == [[0, 24, 6, 2], ALL]


def test_a_selective_encoder_keeps_its_budget(inspected):
    _, _, seen = inspected("FocusDETR")
    # One more than the share that is rounded down, and in later layers a share of that.
    budget = int(0.5 * 128) + 1
    assert [sum(x) for x in counts(seen.layers, KEPT)] == [budget, int(budget * 0.3 / 0.5)]
    assert [sum(x) for x in counts(seen.layers, OBJECT)] == [5, 5]


def test_detections_are_those_of_the_detector_best_first(inspected):
    model, inputs, seen = inspected("DeformableDETR")
    with torch.inference_mode():
        expected = model([inputs])[0]["instances"]
    order = expected.scores.argsort(descending=True, stable=True)
    torch.testing.assert_close(seen.detections.scores, expected.scores[order])
    boxes = expected.pred_boxes.tensor[order]
    torch.testing.assert_close(seen.detections.pred_boxes.tensor, boxes)
    assert seen.detections.image_size == (128, 192)
    assert seen.resized == (64, 96)
    assert set(seen.seconds) == {"backbone", "encoder", "decoder", "total"}
    assert sum(seen.seconds.values()) <= 2 * seen.seconds["total"]


def test_samples_are_of_tokens_all_over_the_image_and_of_the_best_queries(inspected):
    _, _, seen = inspected("DeformableDETR", num_tokens=16, num_queries=7)
    encoder, decoder = seen.samples["encoder"], seen.samples["decoder"]
    # The tokens next to the points of a grid of 4 x 4 are less than a token away from these.
    ticks = (torch.arange(4) + 0.5) / 4
    distance = torch.cdist(torch.cartesian_prod(ticks, ticks), encoder.queries)
    assert len(encoder.queries) <= 16
    assert distance.amin(1).max() < 1 / 8
    assert len(decoder.queries) == 7
    for samples in (encoder, decoder):
        assert samples.weights.shape[1:3] == (4, 4)
        torch.testing.assert_close(samples.weights.sum((2, 3)), torch.ones(len(samples.queries), 4))


def test_tokens_of_an_encoder_without_a_trace_are_found_where_levels_share_a_centre(inspected):
    # 5 x 5 and 3 x 3 tokens have the centre of the image in common.
    torch.manual_seed(0)
    model, _, _ = inspected("LiteDETR")
    inputs = {"image": torch.rand(3, 40, 40) * 255, "height": 40, "width": 40}
    seen = inspect_image(model, inputs, rounds=1)
    assert seen.spatial_shapes == ((5, 5), (3, 3), (2, 2), (1, 1))
    first, second = seen.layers
    assert (first > 0).tolist() == [False] * 25 + [True] * 14
    assert (second > 0).all()
