"""The benchmark of accelerated models."""

import sys

import pytest
import torch
import transformers
from torch import nn

from lite_focus_detr.integrations.substitution import is_substituted
from lite_focus_detr.tools.benchmark import acceleration
from lite_focus_detr.tools.benchmark.__main__ import main
from lite_focus_detr.tools.benchmark.acceleration import BOUND, KINDS, MODELS, Contender

PEAK_MEMORIES = "lite_focus_detr.tools.benchmark.measure.peak_memories"
SIZES = {
    "d_model": 32,
    "encoder_ffn_dim": 16,
    "decoder_ffn_dim": 16,
    "encoder_layers": 1,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "num_queries": 10,
}
BACKBONE = {
    "embedding_size": 16,
    "hidden_sizes": [16, 24, 32, 40],
    "depths": [1, 1, 1, 1],
    "layer_type": "basic",
    "out_features": ["stage2", "stage3", "stage4"],
}
SMALL = MODELS["deformable_detr"]._replace(image_size=(64, 96), backbone=BACKBONE)


@pytest.fixture
def model():
    return acceleration.make_model(SMALL, **SIZES)


def test_both_kinds_run_the_same_work(model):
    workloads = acceleration.make_workloads(SMALL, model)
    assert list(workloads) == [
        *((what, kind) for what in ("inference", "encoder", "training step") for kind in KINDS),
        ("inference", BOUND),
    ]
    fast, slow = (workloads["inference", kind]() for kind in KINDS)
    torch.testing.assert_close(fast.logits, slow.logits, atol=1e-5, rtol=1e-5)
    fast, slow = (workloads["encoder", kind]() for kind in KINDS)
    assert slow[0].shape == (1, 8 * 12 + 4 * 6 + 2 * 3 + 1 * 2, 32)
    torch.testing.assert_close(fast[0], slow[0], atol=1e-5, rtol=1e-5)
    assert not any(is_substituted(module) for module in model.modules())


def test_the_bound_is_the_accelerated_model_with_attention_that_finds_nothing(model):
    workloads = acceleration.make_workloads(SMALL, model)
    for module in model.modules():
        if hasattr(module, "value_proj"):
            nn.init.zeros_(module.value_proj.weight)
            nn.init.zeros_(module.value_proj.bias)
    bound, nothing = workloads["inference", BOUND](), workloads["inference", KINDS[1]]()
    torch.testing.assert_close(bound.logits, nothing.logits, atol=1e-5, rtol=1e-5)
    found = workloads["inference", KINDS[0]]()
    assert (found.logits - bound.logits).abs().max() > 1e-3


def test_a_training_step_reaches_the_attention_and_leaves_no_gradients(model):
    workloads = acceleration.make_workloads(SMALL, model)
    reached = []
    for module in model.modules():
        if hasattr(module, "sampling_offsets"):
            module.sampling_offsets.weight.register_hook(reached.append)
    workloads["training step", KINDS[1]]()
    assert len(reached) == 3
    assert all(parameter.grad is None for parameter in model.parameters())


def test_words_go_to_models_that_take_text():
    inputs = acceleration.make_inputs(Contender("Any", "Task", (16, 24), has_text=True))
    assert inputs["pixel_values"].shape == (1, 3, 16, 24)
    assert inputs["input_ids"].shape == (1, acceleration.NUM_WORDS)


def test_the_command_prints_ratios_to_the_accelerated_model(capsys, monkeypatch):
    monkeypatch.setattr(acceleration, "MODELS", {"deformable_detr": SMALL})
    build = acceleration.make_model
    monkeypatch.setattr(acceleration, "make_model", lambda contender: build(contender, **SIZES))
    monkeypatch.setattr(PEAK_MEMORIES, lambda make, _: dict.fromkeys(make(), 3_000_000))
    main(["accelerate", "--rounds", "1"])
    printed = capsys.readouterr().out.splitlines()
    assert "deformable_detr, one image of 64x96" in printed
    rows = [line.split() for line in printed if "accelerated" in line or "as it is" in line]
    assert [row[0] for row in rows] == ["inference", "inference", "encoder", "encoder"] + [
        "training"
    ] * 2
    assert any(BOUND in line for line in printed)
    assert rows[0][-4:] == ["1.00", "1.00", "3.00", "1.00"]


def test_without_transformers_there_is_one_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(SystemExit, match="pip install transformers"):
        main(["accelerate"])


def test_every_model_is_one_of_transformers():
    for contender in MODELS.values():
        assert issubclass(getattr(transformers, contender.kind + contender.task), nn.Module)
