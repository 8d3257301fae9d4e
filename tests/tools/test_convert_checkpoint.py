import pytest
import torch
from detectron2.config import get_cfg
from detectron2.modeling import build_model

from lite_focus_detr import add_lite_focus_detr_config
from lite_focus_detr.engine import DetrCheckpointer
from lite_focus_detr.tools.convert_checkpoint import main

TINY = """
MODEL:
  META_ARCHITECTURE: DeformableDETR
  RESNETS: {DEPTH: 18, RES2_OUT_CHANNELS: 64, OUT_FEATURES: [res3, res4, res5]}
  BACKBONE: {NAME: build_resnet_backbone}
  DETR:
    NUM_CLASSES: 80
    NUM_QUERIES: 5
    EMBED_DIM: 32
    ENCODER: {NUM_LAYERS: 1, FFN_DIM: 16}
    DECODER: {NUM_LAYERS: 2, FFN_DIM: 16}
"""


@pytest.fixture
def config_file(tmp_path):
    path = tmp_path / "tiny.yaml"
    path.write_text(TINY)
    return str(path)


def model_of(config_file, *overrides):
    cfg = get_cfg()
    add_lite_focus_detr_config(cfg)
    cfg.merge_from_file(config_file)
    cfg.merge_from_list(["MODEL.DEVICE", "cpu", *overrides])
    return build_model(cfg), cfg


def in_original_names(model):
    """The weights as the original release names and repeats them."""
    names = {
        "neck.input_proj.": "input_proj.",
        "neck.level_embed": "transformer.level_embed",
        "encoder.": "transformer.encoder.",
        "decoder.": "transformer.decoder.",
        "query_selector.query_embed": "query_embed",
        "query_selector.reference_points": "transformer.reference_points",
        "backbone.stem.conv1.norm": "backbone.0.body.bn1",
        "backbone.stem.": "backbone.0.body.",
    }
    weights = {}
    for name, tensor in model.state_dict().items():
        if name.startswith("heads."):
            first = name.removeprefix("heads.")
            weights[first] = weights[first.replace(".0.", ".1.", 1)] = tensor
            continue
        prefix = next((p for p in names if name.startswith(p)), "")
        key = names.get(prefix, "") + name[len(prefix) :]
        if name.startswith("backbone.res"):
            key = "backbone.0.body." + name.removeprefix("backbone.")
            for stage in (2, 3, 4, 5):
                key = key.replace(f"res{stage}", f"layer{stage - 1}")
            for conv in (1, 2):
                key = key.replace(f"conv{conv}.norm", f"bn{conv}")
            key = key.replace("shortcut.norm", "downsample.1").replace("shortcut", "downsample.0")
        weights[key] = tensor
    return weights


def test_written_file_loads_like_a_checkpoint_of_the_model(config_file, tmp_path, capsys):
    model, cfg = model_of(config_file)
    torch.save({"model": in_original_names(model)}, tmp_path / "published.pth")

    main([str(tmp_path / "published.pth"), str(tmp_path / "out.pth"), "--config-file", config_file])

    written = torch.load(tmp_path / "out.pth", weights_only=True)
    assert set(written["model"]) == set(model.state_dict())
    assert "deformable_detr" in written["__author__"]
    printed = capsys.readouterr().out
    assert "heads.class_embed.0.bias" in printed
    assert "alias of class_embed.0.bias" in printed
    other, _ = model_of(config_file)
    DetrCheckpointer(other, cfg=cfg).load(str(tmp_path / "out.pth"))
    for name, tensor in model.state_dict().items():
        assert torch.equal(other.state_dict()[name], tensor), name


def test_file_that_does_not_fit_is_refused_in_one_line_and_nothing_is_written(
    config_file, tmp_path
):
    model, _ = model_of(config_file)
    torch.save({"model": model.state_dict()}, tmp_path / "own.pth")
    files = [str(tmp_path / "own.pth"), str(tmp_path / "out.pth")]

    with pytest.raises(SystemExit) as stopped:
        main([*files, "--config-file", config_file, "--opts", "MODEL.DETR.NUM_QUERIES", "7"])

    error = stopped.value.code
    assert "\n" not in error
    assert "query_selector.query_embed.weight is (5, 64), the model has (7, 64)" in error
    assert not (tmp_path / "out.pth").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["missing.pth", "out.pth"], "missing.pth"),
        (["missing.pth", "out.pth", "MODEL.DETR.NUM_KLASSES", "3"], "NUM_KLASSES"),
    ],
)
def test_mistakes_in_the_command_are_one_line(arguments, message, config_file):
    source, target, *opts = arguments

    with pytest.raises(SystemExit) as stopped:
        main([source, target, "--config-file", config_file, "--opts", *opts])

    assert "\n" not in stopped.value.code
    assert message in stopped.value.code


def test_folder_for_transformers_goes_back_to_the_same_bits(tmp_path):
    from transformers import DeformableDetrForObjectDetection

    config_file = tmp_path / "tiny.yaml"
    config_file.write_text(TINY)
    model, _ = model_of(str(config_file))
    torch.save({"model": model.state_dict()}, tmp_path / "own.pth")
    folder, back = tmp_path / "folder", tmp_path / "back.pth"
    config = ["--config-file", str(config_file), "--opts", "MODEL.RESNETS.STRIDE_IN_1X1", "False"]

    main([str(tmp_path / "own.pth"), str(folder), "--to", "hf", *config])
    main([str(folder / "model.safetensors"), str(back), *config])

    theirs = DeformableDetrForObjectDetection.from_pretrained(folder)
    level_embed = model.state_dict()["neck.level_embed"]
    assert torch.equal(theirs.model.level_embed, level_embed)
    assert theirs.config.num_labels == 80
    weights = torch.load(back, weights_only=True)["model"]
    assert all(torch.equal(weights[name], x) for name, x in model.state_dict().items())
    assert weights.keys() == model.state_dict().keys()


def test_incomplete_file_is_not_written_for_transformers(config_file, tmp_path):
    model, _ = model_of(config_file)
    weights = model.state_dict()
    del weights["encoder.layers.0.norm1.bias"]
    torch.save({"model": weights}, tmp_path / "own.pth")
    files = [str(tmp_path / "own.pth"), str(tmp_path / "out")]

    with pytest.raises(SystemExit) as stopped:
        main([*files, "--to", "hf", "--config-file", config_file])

    assert "own.pth lacks 1 tensors of the model, encoder.layers.0.norm1.bias" in stopped.value.code
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("enabled", [True, False])
def test_average_of_a_training_is_what_is_converted_if_ema_is_enabled(
    config_file, tmp_path, enabled
):
    model, _ = model_of(config_file)
    average = {name: torch.full_like(x, 7) for name, x in model.state_dict().items()}
    wrapped = {f"module.{name}": x for name, x in average.items()}
    content = {"model": model.state_dict(), "ema": {**wrapped, "n_averaged": torch.tensor(3)}}
    torch.save(content, tmp_path / "own.pth")
    files = [str(tmp_path / "own.pth"), str(tmp_path / "out.pth")]

    main([*files, "--config-file", config_file, "--opts", "MODEL.EMA.ENABLED", str(enabled)])

    written = torch.load(tmp_path / "out.pth", weights_only=True)["model"]
    expected = average if enabled else model.state_dict()
    assert written.keys() == expected.keys()
    assert all(torch.equal(written[name], x) for name, x in expected.items())
