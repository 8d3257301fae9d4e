"""The command line of the benchmarks."""

import pytest
import torch

from lite_focus_detr.tools.benchmark.__main__ import main


def test_the_command_sets_the_number_of_threads(capsys, monkeypatch):
    monkeypatch.setattr(
        "lite_focus_detr.tools.benchmark.measure.peak_memories",
        lambda make, _: dict.fromkeys(make()),
    )
    before = torch.get_num_threads()
    try:
        options = ["--config-file", "dino_shapes", "--image-size", "64", "96", "--native-only"]
        main(["encoder", *options, "--rounds", "1", "--threads", str(before + 1)])
        assert torch.get_num_threads() == before + 1
    finally:
        torch.set_num_threads(before)
    assert f"{before + 1} threads" in capsys.readouterr().out


def test_an_unknown_command_is_refused(capsys):
    with pytest.raises(SystemExit):
        main(["nothing"])
    assert "invalid choice" in capsys.readouterr().err
