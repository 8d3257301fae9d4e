import math

import pytest
import torch
from detectron2.modeling import build_model
from detectron2.structures import BoxMode

from lite_focus_detr.analysis.token_selection import (
    ImageTrace,
    SelectionSummary,
    attention_correlation,
    covered_objects,
    relative_boxes,
    trace_selection,
)
from lite_focus_detr.modeling.structures import FeatureTokens


def grid_trace(kept, foreground, attention):
    """Of an image with 4 x 5 tokens on one level."""
    y, x = torch.meshgrid(torch.arange(4), torch.arange(5), indexing="ij")
    centers = torch.stack(((x + 0.5) / 5, (y + 0.5) / 4), -1).view(1, 20, 2)
    tokens = FeatureTokens(*[torch.empty(0)] * 3, centers, torch.ones(1, 1, 2), ((4, 5),), (20,))
    return ImageTrace(tokens, foreground, kept, torch.zeros_like(kept), attention)


def test_an_object_is_covered_if_a_kept_token_lies_in_its_box():
    kept = torch.zeros(2, 20, dtype=torch.bool)
    kept[0, [0, 12]] = True  # Centres (0.1, 0.125) and (0.5, 0.625).
    kept[1, 12] = True
    trace = grid_trace(kept, torch.zeros(20), torch.zeros(20))
    boxes = torch.tensor([[0.0, 0.0, 0.2, 0.2], [0.45, 0.6, 0.55, 0.7], [0.6, 0.0, 1.0, 1.0]])
    assert covered_objects(trace, boxes).tolist() == [[True, True, False], [False, True, False]]


def test_correlation_is_the_found_part_of_the_greatest_attention():
    attention = torch.zeros(20)
    attention[[3, 4, 5]] = torch.tensor([4.0, 3.0, 2.0])
    foreground = torch.zeros(20)
    foreground[[4, 9]] = torch.tensor([2.0, 1.0])
    trace = grid_trace(torch.zeros(1, 20, dtype=torch.bool), foreground, attention)
    assert attention_correlation(trace) == pytest.approx(3 / 7)  # 10 % are two tokens.
    assert attention_correlation(trace, 1.0) == pytest.approx(1.0)


def test_coverage_is_counted_by_the_area_of_the_objects():
    kept = torch.zeros(1, 20, dtype=torch.bool)
    kept[0, 0] = True
    trace = grid_trace(kept, torch.zeros(20), torch.ones(20))
    summary = SelectionSummary()
    boxes = torch.tensor([[0.0, 0.0, 0.2, 0.2], [0.6, 0.6, 1.0, 1.0], [0.0, 0.0, 1.0, 1.0]])
    summary.add(trace, boxes, torch.tensor([1023.0, 1023.0, 1024.0]))
    (shares,) = summary.coverage()
    assert shares["small"] == 0.5
    assert shares["medium"] == 1.0
    assert math.isnan(shares["large"])
    assert shares["all"] == pytest.approx(2 / 3)


def test_placement_counts_tokens_in_boxes_of_each_size_over_all_images():
    kept = torch.zeros(2, 20, dtype=torch.bool)
    kept[0, [0, 1, 19]] = True
    objects = torch.zeros_like(kept)
    objects[0, [1, 19]] = True
    trace = grid_trace(kept, torch.zeros(20), torch.ones(20))._replace(objects=objects)
    summary = SelectionSummary()
    # Tokens 0, 1, 5 and 6 are in a small object, tokens 0 and 1 also in a large one.
    boxes = torch.tensor([[0.0, 0.0, 0.4, 0.5], [0.0, 0.0, 0.4, 0.25]])
    summary.add(trace, boxes, torch.tensor([100.0, 9216.0]))
    none = grid_trace(torch.zeros_like(kept), torch.zeros(20), torch.ones(20))
    summary.add(none, boxes[:1], torch.tensor([100.0]))
    first, second = summary.placement()
    assert first.recall["small"] == pytest.approx(2 / 8)
    assert math.isnan(first.recall["medium"])
    assert first.recall["large"] == 1.0
    assert first.recall["all"] == pytest.approx(2 / 8)
    assert first.kept_inside == pytest.approx(2 / 3)
    assert first.objects_inside == 0.5
    assert second.recall["all"] == 0
    assert math.isnan(second.kept_inside)


def test_boxes_become_relative_to_the_image():
    annotations = [{"bbox": [10, 20, 30, 40], "bbox_mode": BoxMode.XYWH_ABS}]
    assert torch.allclose(
        relative_boxes(annotations, 100, 80), torch.tensor([[0.1, 0.25, 0.4, 0.75]])
    )
    assert relative_boxes([], 100, 80).shape == (0, 4)


@pytest.fixture
def config(tiny_config):
    cfg = tiny_config("dino")
    cfg.MODEL.META_ARCHITECTURE = "FocusDETR"
    cfg.MODEL.FOCUS.KEEP_RATIOS = [0.5, 0.3]
    cfg.MODEL.FOCUS.OBJECT_TOKENS = 10
    return cfg


@pytest.mark.parametrize("architecture", ["FocusDETR", "SparseDETR"])
def test_trace_holds_what_each_layer_kept(config, make_batch, architecture):
    config.MODEL.META_ARCHITECTURE = architecture
    torch.manual_seed(0)
    model = build_model(config).eval()
    trace = trace_selection(model, make_batch((1, 1))[0])
    ratios = [0.5, 0.3] if architecture == "FocusDETR" else [0.3, 0.3]
    size = trace.foreground.numel()
    assert trace.kept[0].sum() == int(size * ratios[0]) + 1
    assert trace.kept[1].sum() <= trace.kept[0].sum()
    assert torch.equal(trace.kept[1] & trace.kept[0], trace.kept[1])
    assert trace.objects.sum(1).tolist() == ([10, 10] if architecture == "FocusDETR" else [0, 0])
    assert not (trace.objects & ~trace.kept).any()
    best = trace.foreground.topk(int(trace.kept[0].sum())).indices
    assert trace.kept[0][best].all()
    # Every query of both layers shares out a weight of one per head and sample.
    assert 0 < trace.attention.sum() <= 2 * 4 * 20 + 1e-3


def test_trace_of_the_interleaved_encoder_holds_high_and_kept_low_tokens(config, make_batch):
    config.MODEL.META_ARCHITECTURE = "LiteFocusDETR"
    config.MODEL.LITE.NUM_HIGH_LEVELS = 3
    config.MODEL.LITE_FOCUS.KEEP_RATIOS = [0.25]
    config.MODEL.LITE_FOCUS.OBJECT_TOKENS = 10
    trace = trace_selection(build_model(config).eval(), make_batch((1, 1))[0])
    # 8 x 12 low tokens of 8 pixels each, and 4 x 6, 2 x 3 and 1 x 2 high ones.
    assert trace.kept.sum(1).tolist() == [24 + 6 + 2, 25 + 24 + 6 + 2]
    assert trace.kept[0, 96:].all()
    assert trace.kept[1, trace.foreground[:96].topk(25).indices].all()
    assert trace.objects.sum(1).tolist() == [0, 10]


def test_a_dense_encoder_has_no_selection(config, make_batch):
    config.MODEL.META_ARCHITECTURE = "DeformableDETR"
    with pytest.raises(ValueError, match="whose encoder selects tokens"):
        trace_selection(build_model(config).eval(), make_batch((1, 1))[0])


def test_sizes_are_those_of_coco():
    trace = grid_trace(torch.ones(1, 20, dtype=torch.bool), torch.zeros(20), torch.ones(20))
    areas = [1.0, 32**2 - 1, 32**2, 96**2 - 1, 96**2, 1e6]
    # Only the smallest object of each size keeps a token; the others lie outside of the image.
    inside, outside = [0.0, 0.0, 1.0, 1.0], [1.1, 1.1, 1.2, 1.2]
    summary = SelectionSummary()
    summary.add(trace, torch.tensor([inside, outside] * 3), torch.tensor(areas))
    (shares,) = summary.coverage()
    assert shares == {"small": 0.5, "medium": 0.5, "large": 0.5, "all": 0.5}


def test_annotations_are_counted_in_pixels_of_the_file():
    kept = torch.zeros(1, 20, dtype=torch.bool)
    kept[0, 0] = True
    trace = grid_trace(kept, torch.zeros(20), torch.ones(20))
    summary = SelectionSummary()
    # Token 0 has its centre at (20, 25) of 200 x 200 pixels. The areas are 30 * 30 and 100 * 100.
    boxes = [[10, 10, 30, 30], [100, 100, 100, 100]]
    annotations = [{"bbox": box, "bbox_mode": BoxMode.XYWH_ABS} for box in boxes]
    summary.add_annotated(trace, annotations, 200, 200)
    (shares,) = summary.coverage()
    assert (shares["small"], shares["large"], shares["all"]) == (1.0, 0.0, 0.5)
    assert math.isnan(shares["medium"])
