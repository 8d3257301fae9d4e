"""Files of transformers' own classes, with random weights."""

import copy

import pytest
import torch
import transformers
from detectron2.modeling import build_model
from detectron2.structures import ImageList
from safetensors.torch import load_file

from lite_focus_detr.converters import convert_state_dict, unwrap
from lite_focus_detr.converters.formats.hugging_face import HUGGING_FACE
from lite_focus_detr.engine import DetrCheckpointer
from lite_focus_detr.engine.checkpoint_io import read_checkpoint

SIZES = {
    "backbone": "resnet18",
    "d_model": 32,
    "num_queries": 7,
    "two_stage_num_proposals": 7,
    "encoder_layers": 2,
    "decoder_layers": 3,
    "encoder_ffn_dim": 24,
    "decoder_ffn_dim": 24,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "num_labels": 5,
}
VARIANTS = {
    "deformable_detr_r50_50ep": {},
    "deformable_detr_refine_r50_50ep": {"with_box_refine": True},
    "deformable_detr_two_stage_r50_50ep": {"with_box_refine": True, "two_stage": True},
}
OURS = (
    *("MODEL.DEVICE", "cpu", "MODEL.RESNETS.DEPTH", 18, "MODEL.RESNETS.RES2_OUT_CHANNELS", 64),
    *("MODEL.DETR.EMBED_DIM", 32, "MODEL.DETR.NUM_HEADS", 4, "MODEL.DETR.NUM_QUERIES", 7),
    *("MODEL.DETR.NUM_CLASSES", 5),
    *("MODEL.DETR.ENCODER.NUM_LAYERS", 2, "MODEL.DETR.ENCODER.FFN_DIM", 24),
    *("MODEL.DETR.DECODER.NUM_LAYERS", 3, "MODEL.DETR.DECODER.FFN_DIM", 24),
)


def detector(leaf, **changes):
    """A model of transformers; the heads of a refining decoder differ, as trained ones do."""
    torch.manual_seed(0)
    variant = VARIANTS[leaf]
    config = transformers.DeformableDetrConfig(**{**SIZES, **variant, **changes})
    model = transformers.DeformableDetrForObjectDetection(config).eval()
    if variant:
        # Version 5 ties the heads of all layers of a new model.
        model.class_embed = torch.nn.ModuleList(copy.deepcopy(x) for x in model.class_embed)
        model.bbox_embed = torch.nn.ModuleList(copy.deepcopy(x) for x in model.bbox_embed)
        model.model.decoder.bbox_embed = model.bbox_embed
        if "two_stage" in variant:
            model.model.decoder.class_embed = model.class_embed
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        scale = 0.05 if "backbone" in name and tensor.dim() > 1 else 0.15
        noise = torch.randn_like(tensor) * scale
        if tensor.dim() == 1 and name.endswith((".weight", "running_var")):
            noise = 1 + noise.abs()
        with torch.no_grad():
            tensor.copy_(noise)
    return model


@pytest.fixture(scope="module", params=VARIANTS)
def saved(request, tmp_path_factory):
    """A model, the file that ``save_pretrained`` writes, and the configuration for it."""
    model, folder = detector(request.param), tmp_path_factory.mktemp("saved")
    model.save_pretrained(folder)
    return model, folder / "model.safetensors", request.param


def images(padded):
    torch.manual_seed(1)
    pixels, mask = torch.randn(2, 3, 96, 128), torch.ones(2, 96, 128, dtype=torch.int64)
    if padded:
        mask[1, 70:], mask[1, :, 100:] = 0, 0
    return pixels * mask[:, None], mask, [(96, 128), (70, 100) if padded else (96, 128)]


@torch.no_grad()
def test_logits_and_boxes_equal_those_of_transformers(saved, config):
    theirs, path, leaf = saved
    cfg = config(leaf, *OURS)
    ours = build_model(cfg).eval()
    DetrCheckpointer(ours, cfg=cfg, for_inference=True).load(str(path))
    # Of padding transformers makes proposals, this package does not.
    pixels, mask, sizes = images(padded="two_stage" not in leaf)

    expected = theirs(pixel_values=pixels, pixel_mask=mask)
    outputs = ours.forward_outputs(ImageList(pixels, sizes))

    torch.testing.assert_close(outputs.pred_logits, expected.logits, atol=1e-5, rtol=0)
    torch.testing.assert_close(outputs.pred_boxes, expected.pred_boxes, atol=1e-5, rtol=0)
    assert expected.logits.std() > 0.1


def test_every_tensor_of_the_file_is_placed_and_the_model_filled(saved, config):
    _, path, leaf = saved
    cfg, tensors = config(leaf, *OURS), load_file(path)

    converted, report = convert_state_dict(tensors, cfg)

    assert report.format == "hugging_face"
    assert set(report.used) == set(tensors)
    assert (report.missing, report.unused, report.differences) == ([], {}, [])
    assert report.notes == []
    build_model(cfg).load_state_dict(converted, strict=True)


def test_names_in_memory_and_pickled_files_convert_to_the_same_tensors(saved, config, tmp_path):
    theirs, path, leaf = saved
    cfg = config(leaf, *OURS)
    torch.save(theirs.state_dict(), tmp_path / "pytorch_model.bin")

    weights = unwrap(read_checkpoint(str(tmp_path / "pytorch_model.bin")))
    converted, report = convert_state_dict(weights, cfg)

    assert set(report.used) | set(report.unused) == set(weights)
    assert all(reason.startswith("alias of") for reason in report.unused.values())
    expected, _ = convert_state_dict(load_file(path), cfg)
    assert converted.keys() == expected.keys()
    assert all(torch.equal(converted[name], expected[name]) for name in expected)


def test_queries_keys_and_values_are_joined_in_the_order_of_pytorch(saved, config):
    _, path, leaf = saved
    tensors = load_file(path)

    converted, report = convert_state_dict(tensors, config(leaf, *OURS))

    prefix = "model.decoder.layers.1.self_attn"
    rows = converted["decoder.layers.1.self_attn.in_proj_weight"].split(32)
    for part, block in zip("qkv", rows, strict=True):
        assert torch.equal(block, tensors[f"{prefix}.{part}_proj.weight"])
        assert report.used[f"{prefix}.{part}_proj.bias"] == (
            "decoder.layers.1.self_attn.in_proj_bias",
        )


def test_one_class_head_for_all_layers_of_a_refining_decoder_is_copied(config):
    # What version 5 trains and writes if its configuration ties the heads.
    leaf = "deformable_detr_refine_r50_50ep"
    tensors = {
        "model.level_embed": torch.zeros(4, 32),
        "model.input_proj.0.0.weight": torch.zeros(32, 128, 1, 1),
        "model.decoder.layers.2.final_layer_norm.bias": torch.zeros(32),
        "class_embed.0.bias": torch.arange(5.0),
        **{f"model.decoder.bbox_embed.{i}.layers.2.bias": torch.full((4,), i) for i in range(3)},
    }

    converted, report = convert_state_dict(tensors, config(leaf, *OURS))

    assert report.used["class_embed.0.bias"] == tuple(
        f"heads.class_embed.{i}.bias" for i in range(3)
    )
    for layer in range(3):
        assert converted[f"heads.bbox_embed.{layer}.layers.2.bias"].tolist() == [layer] * 4


RENAMED = {
    "model.backbone.conv_encoder.model.layer1.0.downsample.0.weight": "backbone.res2.0.shortcut.w",
    "model.backbone.model.bn1.weight": "backbone.stem.conv1.norm.w",
    "model.backbone.model._backbone.layer4.2.bn3.weight": "backbone.res5.2.conv3.norm.w",
    "model.backbone.conv_encoder.model.embedder.embedder.convolution.weight": (
        "backbone.stem.conv1.w"
    ),
    "model.backbone.conv_encoder.model.encoder.stages.3.layers.2.layer.1.convolution.weight": (
        "backbone.res5.2.conv2.w"
    ),
    "model.backbone.model.encoder.stages.0.layers.0.layer.2.normalization.weight": (
        "backbone.res2.0.conv3.norm.w"
    ),
    "model.backbone.model.encoder.stages.0.layers.0.shortcut.normalization.weight": (
        "backbone.res2.0.shortcut.norm.w"
    ),
    "model.encoder.layers.5.self_attn_layer_norm.weight": "encoder.layers.5.norm1.w",
    "model.encoder.layers.5.final_layer_norm.weight": "encoder.layers.5.norm2.w",
    "model.encoder.layers.5.fc1.weight": "encoder.layers.5.linear1.w",
    "model.encoder.layers.5.mlp.fc2.weight": "encoder.layers.5.linear2.w",
    "model.decoder.layers.5.self_attn_layer_norm.weight": "decoder.layers.5.norm2.w",
    "model.decoder.layers.5.encoder_attn_layer_norm.weight": "decoder.layers.5.norm1.w",
    "model.decoder.layers.5.final_layer_norm.weight": "decoder.layers.5.norm3.w",
    "model.decoder.layers.5.self_attn.o_proj.weight": "decoder.layers.5.self_attn.out_proj.w",
    "model.decoder.layers.5.self_attn.out_proj.weight": "decoder.layers.5.self_attn.out_proj.w",
    "model.decoder.layers.5.encoder_attn.value_proj.weight": (
        "decoder.layers.5.cross_attn.value_proj.w"
    ),
    "model.decoder.class_embed.6.weight": "heads.class_embed.6.w",
    "model.enc_output_norm.weight": "proposal_head.enc_output_norm.w",
    "model.pos_trans_norm.weight": "query_selector.pos_trans_norm.w",
}


@pytest.mark.parametrize(("key", "name"), RENAMED.items())
def test_keys_of_transformers_get_our_names(key, name):
    assert HUGGING_FACE.rename(key) == f"{name}eight"


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("MODEL.DETR.POSITION.TEMPERATURE", 20.0),
        ("MODEL.DETR.POSITION.OFFSET", 0.0),
        ("MODEL.DETR.INVERSE_SIGMOID_EPS", 1e-3),
    ],
)
def test_contradicting_configuration_is_named(saved, setting, value, config):
    _, path, leaf = saved

    report = convert_state_dict(load_file(path), config(leaf, *OURS, setting, value)).report

    (difference,) = report.differences
    assert setting in difference


def test_91_rows_of_coco_become_80_classes(config):
    tensors = {
        "model.level_embed": torch.zeros(4, 32),
        "model.input_proj.0.0.weight": torch.zeros(32, 128, 1, 1),
        "model.decoder.layers.2.final_layer_norm.bias": torch.zeros(32),
        "class_embed.0.bias": torch.arange(91.0),
    }

    converted, report = convert_state_dict(
        tensors, config("deformable_detr_r50_50ep", *OURS, "MODEL.DETR.NUM_CLASSES", 80)
    )

    # Category 1 is the person, 90 the toothbrush, and 12 is none.
    rows = converted["heads.class_embed.0.bias"]
    assert (rows[0], rows[79], len(rows)) == (1, 90, 80)
    assert 12 not in rows
    assert "80 of 91" in report.notes[0]
