import json

import pytest
import torch
from torch import nn

from lite_focus_detr.engine.nonfinite import broken_state, write_report


def trained(value):
    """A layer after a step of Adam, with this value in its bias, a buffer and a moment."""
    model = nn.Sequential(nn.Linear(2, 1), nn.BatchNorm1d(1))
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.randn(3, 2)).sum().backward()
    optimizer.step()
    model[0].bias.data[0] = value
    model[1].running_mean[0] = value
    optimizer.state[model[0].weight]["exp_avg_sq"][0, 1] = value
    return model, optimizer


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_weights_buffers_and_states_are_named(value):
    assert broken_state(*trained(1.0)) == []
    names = ["0.bias", "1.running_mean", "exp_avg_sq of 0.weight"]
    assert sorted(broken_state(*trained(value))) == names


def test_only_the_twenty_worst_parameters_are_described(tmp_path):
    model = nn.ModuleList(nn.Linear(1, 1, bias=False) for _ in range(30))
    for index, layer in enumerate(model):
        layer.weight.grad = torch.full((1, 1), float(index))
    model[3].weight.grad[0] = float("nan")
    path = write_report(
        str(tmp_path), 12, "a test", [], model, torch.optim.SGD(model.parameters(), 0.1)
    )
    assert path == str(tmp_path / "nonfinite_12.json")
    rows = json.loads((tmp_path / "nonfinite_12.json").read_text())["parameters"]
    expected = [3, *range(29, 10, -1)]
    assert [row["name"] for row in rows] == [f"{index}.weight" for index in expected]
    assert rows[0]["gradient"] == "nan"


def test_a_folder_that_is_missing_is_logged(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(__import__("logging").getLogger("lite_focus_detr"), "propagate", True)
    model = nn.Linear(1, 1)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    assert write_report(str(tmp_path / "no"), 1, "a test", [], model, optimizer) == ""
    assert "there is no folder" in caplog.text
