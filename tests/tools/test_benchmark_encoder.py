import argparse

import pytest

from lite_focus_detr.tools import benchmark_encoder
from lite_focus_detr.tools.benchmark_encoder import Measurement, make_step, table


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
    step = make_step("lite_dino_shapes", (64, 96), "cpu", train)
    memory = step()
    if not train:
        assert memory.shape == (1, 8 * 12 + 4 * 6 + 2 * 3 + 1 * 2, 64)


def test_the_command_measures_native_operators_and_reference_alike(capsys):
    parser = argparse.ArgumentParser()
    benchmark_encoder.add_arguments(parser)
    names = ["--config-file", "dino_shapes", "--config-file", "lite_dino_shapes"]
    options = ["--rounds", "1", "--image-size", "64", "96"]
    benchmark_encoder.run(parser.parse_args([*names, *options]))
    text = capsys.readouterr().out
    assert "one image of 64x96" in text
    assert [line.split()[0] for line in text.splitlines()[-2:]] == [
        "dino_shapes",
        "lite_dino_shapes",
    ]
