import pytest
import torch

from lite_focus_detr import model_zoo
from lite_focus_detr.tools import benchmark
from lite_focus_detr.tools.benchmark_encoder import (
    CONFIGS,
    encoder_step,
    make_steps,
    make_tokens,
    table,
)
from lite_focus_detr.tools.benchmark_measure import Measurement


def test_the_table_has_one_row_per_encoder_with_ratios_to_the_first():
    measured = {
        ("a/dense", "cpu"): Measurement(0.2, 0.4, 1000_000),
        ("a/dense", "reference"): Measurement(0.8, 0.8, 4000_000),
        ("lite", "cpu"): Measurement(0.05, 0.2, 500_000),
        ("lite", "reference"): Measurement(0.4, 0.2, None),
    }
    lines = table(measured, ["a/dense", "lite"], ["cpu", "reference"]).splitlines()
    native = ["50.00", "0.25", "0.50", "0.50", "0.50"]
    assert lines[2].split()[0] == "dense"
    assert lines[3].split() == ["lite", *native, "400.00", "0.50", "0.25", "-", "-", "8.00"]


@pytest.mark.parametrize("train", [True, False])
def test_a_step_runs_the_encoder_of_the_named_configuration(train):
    steps = make_steps(["lite_dino_shapes"], (64, 96), "cpu", train)
    memory = steps["lite_dino_shapes"]()
    if not train:
        assert memory.shape == (1, 8 * 12 + 4 * 6 + 2 * 3 + 1 * 2, 64)


@pytest.mark.parametrize("name", ["dino_shapes", "focus_dino_shapes", "sparse_dino_shapes"])
def test_a_training_step_reaches_all_weights_and_leaves_no_gradients(name):
    model = model_zoo.get(name, device="cpu")
    reached = set()
    for key, parameter in model.encoder.named_parameters():
        parameter.register_hook(lambda gradient, key=key: reached.add(key))
    tokens = make_tokens(model, (64, 96))
    encoder_step(model.encoder, model.proposal_head, tokens, train=True)()
    assert reached == {key for key, _ in model.encoder.named_parameters()}
    assert all(parameter.grad is None for parameter in model.parameters())


def test_the_default_encoders_have_the_same_size_and_host():
    def host(name):
        cfg = model_zoo.get_config(name)
        return cfg.MODEL.DETR.ENCODER.FFN_DIM, cfg.MODEL.DETR.QUERY_SELECTION, cfg.MODEL.RESNETS

    assert all(host(name) == host(CONFIGS[0]) for name in CONFIGS)


def test_the_command_measures_native_operators_and_reference_alike(capsys):
    names = ["--config-file", "dino_shapes", "--config-file", "lite_dino_shapes"]
    benchmark.main(["encoder", *names, "--rounds", "1", "--image-size", "64", "96"])
    text = capsys.readouterr().out
    assert "one image of 64x96" in text
    assert f"{torch.get_num_threads()} threads" in text
    assert [line.split()[0] for line in text.splitlines()[-2:]] == [
        "dino_shapes",
        "lite_dino_shapes",
    ]
