"""The benchmark of the operators."""

import pytest
import torch

from lite_focus_detr.tools import benchmark, benchmark_operators

DEVICE = torch.device("cpu")


def test_all_contenders_of_a_case_compute_the_same():
    inputs = benchmark_operators.make_inputs(60, DEVICE, torch.float32)
    for case in benchmark_operators.make_cases(inputs, DEVICE):
        if case.backward:
            continue
        expected = case.contenders["native"](*case.tensors)
        for function in case.contenders.values():
            torch.testing.assert_close(function(*case.tensors), expected, atol=1e-4, rtol=1e-4)


def test_points_of_the_encoder_lie_around_their_own_pixel():
    inputs = benchmark_operators.make_inputs(
        benchmark_operators.QUERIES["encoder"], DEVICE, torch.float32
    )
    height, width = benchmark_operators.SHAPES[0]
    centre = torch.tensor([1.5 / width, 2.5 / height])
    torch.testing.assert_close(inputs.references[0, 2 * width + 1, 0], centre)
    distance = (inputs.locations - inputs.references[:, :, None, :, None]).abs()
    assert distance[..., 0, :, 0].median() < 5 / width


def test_the_table_names_times_ratios_and_memory(capsys, monkeypatch):
    monkeypatch.setattr(benchmark_operators, "QUERIES", {"encoder": 22223, "decoder": 20})
    benchmark.main(["op", "--rounds", "1", "--size", "decoder"])
    printed = capsys.readouterr().out
    assert "grid_sample" in printed
    assert "key-aware, key = value, gradients" in printed
    assert "peak MB" in printed


def test_an_unknown_command_is_refused(capsys):
    with pytest.raises(SystemExit):
        benchmark.main(["nothing"])
    assert "invalid choice" in capsys.readouterr().err
