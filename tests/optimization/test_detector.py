import copy
from types import SimpleNamespace

import pytest
import torch
from detectron2.layers import Conv2d, FrozenBatchNorm2d
from detectron2.modeling import build_model
from tests.conftest import FAMILIES

import lite_focus_detr
from lite_focus_detr import model_zoo, optimize_for_inference
from lite_focus_detr.optimization import detector, optimize_as_configured
from lite_focus_detr.optimization.detector import fold_batch_norm
from lite_focus_detr.optimization.packed_layers import (
    PackedFeedForward,
    QuantizedFeedForward,
)

needs_bfloat16 = pytest.mark.skipif(
    not torch.ops.mkldnn._is_mkldnn_bf16_supported(), reason="the processor has no bfloat16"
)
ENCODERS = ["dino_shapes", "lite_dino_shapes", "focus_dino_shapes", "sparse_dino_shapes"]


def images_of(model, *sizes):
    random = torch.Generator().manual_seed(0)
    images = [torch.randint(256, (3, *size), generator=random).float() for size in sizes]
    return model.preprocess_image([{"image": image} for image in images])


def assert_same_outputs(optimized, model, images, **tolerance):
    with torch.no_grad():
        expected = model.forward_outputs(images)
        # The same proposals, so that no tie between scores decides.
        found = optimized.forward_outputs(images, expected.proposal_indices)
    torch.testing.assert_close(found.pred_logits, expected.pred_logits, **tolerance)
    torch.testing.assert_close(found.pred_boxes, expected.pred_boxes, **tolerance)


@pytest.mark.parametrize("name", [*ENCODERS, "lite_focus_dino_shapes"])
def test_every_encoder_predicts_the_same(name):
    model = model_zoo.get(name).cpu().eval()
    optimized = optimize_for_inference(model)
    assert_same_outputs(optimized, model, images_of(model, (96, 128)), rtol=0, atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_predicts_the_same_in_a_padded_batch(tiny_config, family):
    model = build_model(tiny_config(family)).eval()
    optimized = optimize_for_inference(model)
    assert_same_outputs(optimized, model, images_of(model, (64, 96), (60, 70)), rtol=0, atol=1e-5)


def test_detections_are_the_same(tiny_config, make_batch):
    model = build_model(tiny_config("deformable")).eval()
    optimized = optimize_for_inference(model)
    batch = make_batch((0, 0), sizes=((64, 96), (64, 96)))
    for found, expected in zip(optimized(batch), model(batch), strict=True):
        found, expected = found["instances"], expected["instances"]
        torch.testing.assert_close(found.scores, expected.scores, rtol=0, atol=1e-5)


def test_the_detector_itself_stays_as_it_is(tiny_config):
    model = build_model(tiny_config("dino"))
    before = copy.deepcopy(model.state_dict())
    optimized = optimize_for_inference(model)
    assert model.training
    assert not optimized.training
    assert not any(parameter.requires_grad for parameter in optimized.parameters())
    after = model.state_dict()
    assert list(before) == list(after)
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_batch_normalisation_becomes_part_of_the_convolutions():
    layer = Conv2d(3, 5, 3, padding=1, bias=False, norm=FrozenBatchNorm2d(5))
    for statistic in (layer.norm.weight, layer.norm.bias, layer.norm.running_mean):
        statistic.uniform_(-2, 2)
    layer.norm.running_var.uniform_(0.5, 2)
    x, norm = torch.randn(2, 3, 8, 9), layer.norm
    convolved = torch.nn.functional.conv2d(x, layer.weight, padding=1)
    scale, shift = (norm.running_var + norm.eps).sqrt(), norm.running_mean
    normalised = (convolved - shift[:, None, None]) / scale[:, None, None]
    expected = normalised * norm.weight[:, None, None] + norm.bias[:, None, None]
    fold_batch_norm(layer)
    assert layer.norm is None
    torch.testing.assert_close(layer(x), expected, rtol=0, atol=1e-5)


def test_feed_forward_parts_are_packed():
    model = model_zoo.get("lite_detr/lite_dino_h2l2_2p1x3_r50_36ep").cpu()
    optimized = optimize_for_inference(model)
    parts = [m for m in optimized.modules() if isinstance(m, PackedFeedForward)]
    # Six encoder layers, three of which have a second part for low levels, and six of the decoder.
    assert len(parts) == 6 + 3 + 6


@needs_bfloat16
def test_convolutions_keep_their_weights_in_half_precision(tiny_config):
    model = build_model(tiny_config("dino")).eval()
    optimized = optimize_for_inference(model, torch.bfloat16)
    maps = (*optimized.backbone.modules(), *optimized.neck.modules())
    convolutions = [m for m in maps if isinstance(m, torch.nn.Conv2d)]
    assert convolutions
    assert {m.weight.dtype for m in convolutions} == {torch.bfloat16}
    assert all(m.weight.is_contiguous(memory_format=torch.channels_last) for m in convolutions)


def test_layers_with_another_activation_keep_it(tiny_config):
    model = build_model(tiny_config("dino")).eval()
    for layer in model.encoder.layers:
        layer.activation = torch.nn.GELU()
    optimized = optimize_for_inference(model)
    assert_same_outputs(optimized, model, images_of(model, (64, 96)), rtol=0, atol=1e-5)


@needs_bfloat16
def test_half_precision_is_that_of_the_outputs_too(tiny_config):
    model = build_model(tiny_config("deformable")).eval()
    optimized = optimize_for_inference(model, torch.bfloat16)
    images = images_of(model, (64, 96))
    assert_same_outputs(optimized, model, images, rtol=0, atol=0.1)


@needs_bfloat16
def test_half_precision_detects_nearly_the_same(tiny_config, make_batch):
    model = build_model(tiny_config("deformable")).eval()
    optimized = optimize_for_inference(model, torch.bfloat16)
    batch = make_batch((0,), sizes=((64, 96),))
    scores = [detector(batch)[0]["instances"].scores for detector in (model, optimized)]
    assert scores[1].dtype == torch.float32
    torch.testing.assert_close(scores[1], scores[0], rtol=0, atol=0.02)
    assert not torch.equal(*scores)


def test_integers_are_those_of_the_feed_forward_parts(tiny_config):
    model = build_model(tiny_config("dino")).eval()
    optimized = optimize_for_inference(model, torch.int8)
    parts = [m for m in optimized.modules() if isinstance(m, QuantizedFeedForward)]
    # Two encoder and two decoder layers.
    assert len(parts) == 2 + 2
    images = images_of(model, (64, 96))
    assert_same_outputs(optimized, model, images, rtol=0, atol=0.1)
    with pytest.raises(AssertionError):
        assert_same_outputs(optimized, model, images, rtol=0, atol=1e-5)


def test_integers_need_onednn_and_an_engine(tiny_config, monkeypatch):
    assert detector.has_int8()
    model = build_model(tiny_config("dino")).eval()
    with monkeypatch.context() as patch:
        patch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
        assert not detector.has_int8()
    monkeypatch.setattr(torch.backends, "quantized", SimpleNamespace(engine="none"))
    assert not detector.has_int8()
    with pytest.raises(ValueError, match=r"torch\.int8 needs .* an engine .* is none; take torch"):
        optimize_for_inference(model, torch.int8)


def test_what_cannot_be_optimised_is_named(tiny_config, monkeypatch):
    with pytest.raises(TypeError, match="model is a Linear, not a detector"):
        optimize_for_inference(torch.nn.Linear(2, 2))
    model = build_model(tiny_config("dino"))
    with pytest.raises(ValueError, match=r"dtype is torch\.float16; it must be"):
        optimize_for_inference(model, torch.float16)
    monkeypatch.setattr(detector, "has_bfloat16", lambda: False)
    with pytest.raises(ValueError, match="this processor has no instructions for bfloat16"):
        optimize_for_inference(model, torch.bfloat16)
    with pytest.raises(ValueError, match=r"torch\.int8 is for the CPU.* the model is on meta"):
        optimize_for_inference(model.to("meta"), torch.int8)


@pytest.mark.parametrize(
    ("value", "dtype"),
    [
        ("none", None),
        ("float32", None),
        ("int8", None),
        pytest.param("bfloat16", torch.bfloat16, marks=needs_bfloat16),
    ],
)
def test_the_configuration_says_whether_and_how(tiny_config, value, dtype):
    cfg = tiny_config("dino")
    cfg.TEST.OPTIMIZE = value
    model = build_model(cfg)
    found = optimize_as_configured(model, cfg)
    assert (found is model) == (value == "none")
    assert found.inference_dtype == dtype


def test_it_is_a_name_of_the_package():
    assert "optimize_for_inference" in lite_focus_detr.__all__
