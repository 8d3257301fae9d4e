import pytest
import torch
import transformers
from detectron2.modeling import build_model
from detectron2.structures import ImageList
from safetensors.torch import load_file, save_file

from lite_focus_detr.converters import convert_state_dict
from lite_focus_detr.converters.to_hugging_face import to_hugging_face

OURS = (
    *("MODEL.DEVICE", "cpu", "MODEL.RESNETS.DEPTH", 18, "MODEL.RESNETS.RES2_OUT_CHANNELS", 64),
    *("MODEL.DETR.EMBED_DIM", 32, "MODEL.DETR.NUM_HEADS", 4, "MODEL.DETR.NUM_QUERIES", 7),
    *("MODEL.DETR.ENCODER.NUM_LAYERS", 1, "MODEL.DETR.ENCODER.FFN_DIM", 24),
    *("MODEL.DETR.DECODER.NUM_LAYERS", 2, "MODEL.DETR.DECODER.FFN_DIM", 16),
    *("MODEL.DETR.DECODER.NUM_POINTS", 2),
)
LEAVES = (
    "deformable_detr_r50_50ep",
    "deformable_detr_refine_r50_50ep",
    "deformable_detr_two_stage_r50_50ep",
)


@pytest.fixture(scope="module", params=LEAVES)
def leaf(request):
    return request.param


@pytest.fixture
def exported(leaf, config):
    """A model of ours with random weights, its configuration, and what transformers gets."""
    torch.manual_seed(0)
    cfg = config(leaf, *OURS)
    model = build_model(cfg).eval()
    for tensor in model.parameters():
        if tensor.dim() > 1:
            torch.nn.init.normal_(tensor, std=0.05)
        else:
            tensor.data += torch.randn_like(tensor) * 0.1
    return model, cfg, *to_hugging_face(model.state_dict(), cfg)


@torch.no_grad()
def test_transformers_computes_the_same_from_the_files(exported, tmp_path):
    ours, _, weights, settings = exported
    save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})
    config = transformers.DeformableDetrConfig.from_dict(settings)
    config.save_pretrained(tmp_path)

    theirs, loaded = transformers.DeformableDetrForObjectDetection.from_pretrained(
        tmp_path, output_loading_info=True
    )

    assert (set(loaded["missing_keys"]), set(loaded["unexpected_keys"])) == (set(), set())
    torch.manual_seed(1)
    pixels = torch.randn(1, 3, 96, 128)
    expected = ours.forward_outputs(ImageList(pixels, [(96, 128)]))
    outputs = theirs.eval()(pixel_values=pixels)
    torch.testing.assert_close(outputs.logits, expected.pred_logits, atol=1e-5, rtol=0)
    torch.testing.assert_close(outputs.pred_boxes, expected.pred_boxes, atol=1e-5, rtol=0)
    assert theirs.config.id2label[79] == "toothbrush"


def test_there_and_back_keeps_every_bit_of_our_weights(exported):
    ours, cfg, weights, _ = exported

    back, report = convert_state_dict(weights, cfg)

    assert (report.missing, report.unused, report.differences) == ([], {}, [])
    expected = ours.state_dict()
    assert back.keys() == expected.keys()
    assert all(torch.equal(back[name], expected[name]) for name in expected)


def test_back_and_there_keeps_names_and_bits_of_their_file(exported, tmp_path):
    _, cfg, weights, settings = exported
    # Written by transformers itself.
    save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})
    config = transformers.DeformableDetrConfig.from_dict(settings)
    transformers.DeformableDetrForObjectDetection.from_pretrained(
        tmp_path, config=config
    ).save_pretrained(tmp_path / "theirs")
    theirs = load_file(tmp_path / "theirs/model.safetensors")

    again, _ = to_hugging_face(convert_state_dict(theirs, cfg).state_dict, cfg)

    assert again.keys() == theirs.keys()
    assert all(torch.equal(again[name], theirs[name]) for name in theirs)


def test_classes_of_another_number_have_the_names_that_transformers_gives(config):
    cfg = config("deformable_detr_r50_50ep", *OURS, "MODEL.DETR.NUM_CLASSES", 2)

    _, settings = to_hugging_face({}, cfg)

    assert settings["id2label"] == {"0": "LABEL_0", "1": "LABEL_1"}


@pytest.mark.parametrize(
    ("other", "change"),
    [
        ("deformable_detr_r50_50ep", ("MODEL.DETR.POSITION.OFFSET", 0.0)),
        ("deformable_detr_r50_50ep", ("MODEL.DETR.INVERSE_SIGMOID_EPS", 1e-3)),
        ("deformable_detr_r50_50ep", ("MODEL.DETR.SHARE_HEADS", False)),
        ("deformable_detr_r50_50ep", ("MODEL.RESNETS.STRIDE_IN_1X1", True)),
        ("deformable_detr_r50_50ep", ("MODEL.META_ARCHITECTURE", "LiteDETR")),
        (
            "deformable_detr_two_stage_r50_50ep",
            ("MODEL.DETR.CLASS_AGNOSTIC_PROPOSALS", False),
        ),
        ("dino_r50_12ep", ("MODEL.DETR.QUERY_SELECTION", "mixed")),
    ],
)
def test_detector_that_transformers_does_not_have_is_refused_with_the_key(other, change, config):
    with pytest.raises(ValueError, match=rf"transformers cannot .*{change[0]} {change[1]}"):
        to_hugging_face({}, config(other, *change))
