import pytest
import torch

from lite_focus_detr import model_zoo
from lite_focus_detr.tools.benchmark.__main__ import main
from lite_focus_detr.tools.benchmark.encoders import (
    encoder_workload,
    make_tokens,
    make_workloads,
    table,
)
from lite_focus_detr.tools.benchmark.measure import Measurement


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
def test_a_workload_runs_the_encoder_of_the_named_configuration(train):
    configs = {"lite": model_zoo.get_config("lite_dino_shapes")}
    workloads = make_workloads(configs, (64, 96), "cpu", train)
    memory = workloads["lite"]()
    if not train:
        assert memory.shape == (1, 8 * 12 + 4 * 6 + 2 * 3 + 1 * 2, 64)


@pytest.mark.parametrize("name", ["dino_shapes", "focus_dino_shapes", "sparse_dino_shapes"])
def test_a_training_step_reaches_all_weights_and_leaves_no_gradients(name):
    model = model_zoo.get(name, device="cpu")
    reached = set()
    for key, parameter in model.encoder.named_parameters():
        parameter.register_hook(lambda gradient, key=key: reached.add(key))
    tokens = make_tokens(model, (64, 96))
    encoder_workload(model.encoder, model.proposal_head, tokens, train=True)()
    assert reached == {key for key, _ in model.encoder.named_parameters()}
    assert all(parameter.grad is None for parameter in model.parameters())


def test_the_features_have_the_sizes_of_a_network_that_halves_and_rounds_up():
    model = model_zoo.get("dino_shapes", device="cpu")
    tokens = make_tokens(model, (100, 167))
    assert tokens.spatial_shapes == ((13, 21), (7, 11), (4, 6), (2, 3))
    assert tokens.num_valid == (tokens.features.shape[1],)


def test_a_mistake_in_the_configuration_is_one_line():
    with pytest.raises(SystemExit, match=r"unknown configuration key MODEL\.X"):
        main(["encoder", "--config-file", "dino_shapes", "--opts", "MODEL.X", "1"])


def test_the_command_measures_native_operators_and_reference_alike(capsys):
    names = ["--config-file", "dino_shapes", "--config-file", "lite_dino_shapes"]
    main(["encoder", *names, "--rounds", "1", "--image-size", "64", "96"])
    text = capsys.readouterr().out
    assert "one image of 64x96" in text
    assert f"{torch.get_num_threads()} threads" in text
    assert [line.split()[0] for line in text.splitlines()[-2:]] == [
        "dino_shapes",
        "lite_dino_shapes",
    ]
