import json

import pytest

from lite_focus_detr.tools.study import comparison
from lite_focus_detr.tools.study.suite import Cell, cell_config

SUITE = [
    *(Cell("shapes", "dino", "dense", seed) for seed in (0, 1)),
    *(Cell("shapes", "dino", "focus_keep30", seed) for seed in (0, 1)),
    Cell("shapes", "dino", "lite_h2l2", 0),
]
AP = {("dense", 0): 40.0, ("dense", 1): 44.0, ("focus_keep30", 0): 39.0, ("focus_keep30", 1): 41.0}
COSTS = {
    "shapes": {
        "processor": "a processor",
        "image_size": [64, 96],
        "encoders": {
            "dense": {"gflops": 2.0, "seconds": 0.5},
            "focus_keep30": {"gflops": 0.5, "seconds": 0.125},
        },
    }
}


@pytest.fixture
def folder(tmp_path):
    for (encoder, seed), ap in AP.items():
        path = tmp_path / "runs" / Cell("shapes", "dino", encoder, seed).name
        path.mkdir(parents=True)
        (path / "metrics.json").write_text(json.dumps({"bbox/AP": ap}))
        sizes = {"AP": ap, "AP50": 2 * ap, "APs": 1.0, "APm": 2.0, "APl": float("nan")}
        recall = {"small": 0.5, "medium": 0.25, "large": float("nan")}
        recall = None if encoder == "dense" else recall
        result = {"iterations": 60, "step_seconds": 0.5, "ap": sizes, "recall": recall}
        if recall and seed:
            result["step_seconds"] = 0.0  # Stopped after its last step, and gone on.
        (path / comparison.RESULT).write_text(json.dumps(result))
    return tmp_path / "runs"


def rows(text):
    """Cells of the lines of the table, by the encoder."""
    lines = [line.strip("|").split("|") for line in text.splitlines() if line.startswith("|")]
    titles = [cell.strip() for cell in lines[0]]
    return {
        line[0].strip(): dict(zip(titles, (x.strip() for x in line), strict=True))
        for line in lines[2:]
    }


def test_a_row_has_mean_deviation_and_the_difference_to_dense_runs_of_the_same_seeds(
    folder, tmp_path
):
    document = tmp_path / "docs" / "comparison.md"
    document.parent.mkdir()
    comparison.write_document(document, folder, SUITE, COSTS)
    table = rows(document.read_text())
    assert list(table) == ["`dense`", "`focus_keep30`"]
    assert table["`dense`"]["AP"] == "42.0 ± 2.8"  # |40 - 44| / sqrt(2)
    focus = table["`focus_keep30`"]
    assert focus["AP"] == "40.0 ± 1.4"
    assert focus["to dense"] == "-2.0"  # The mean of -1 and -3.
    assert (focus["seeds"], focus["AP50"]) == ("2", "80.0 ± 2.8")
    assert (focus["recall small"], focus["recall medium"]) == ("0.50", "0.25")
    assert table["`dense`"]["recall small"] == "1"
    assert (focus["large"], focus["recall large"]) == ("", "")
    assert (focus["encoder ms"], focus["GFLOPs"], focus["step s"]) == ("125.0", "0.500", "0.50")


def test_every_row_names_metrics_that_lie_beside_the_document(folder, tmp_path):
    document = tmp_path / "comparison.md"
    comparison.write_document(document, folder, SUITE, {})
    text = document.read_text()
    for encoder, seed in AP:
        name = f"comparison/{Cell('shapes', 'dino', encoder, seed).name}/metrics.json"
        assert f"({name})" in text
        assert json.loads((tmp_path / name).read_text()) == {"bbox/AP": AP[encoder, seed]}
    assert (tmp_path / "comparison/ap_over_gflops.png").read_bytes().startswith(b"\x89PNG")


def test_what_is_missing_is_said(folder, tmp_path):
    document = tmp_path / "comparison.md"
    comparison.write_document(document, folder, SUITE, COSTS)
    assert "4 of 5 trainings" in document.read_text()
    assert "Missing: `shapes-dino-lite_h2l2-seed0`." in document.read_text()
    comparison.write_document(document, folder, SUITE[:4], COSTS)
    assert "All trainings of the suite are finished." in document.read_text()
    comparison.write_document(document, tmp_path / "empty", SUITE, {})
    assert "0 of 5 trainings" in document.read_text()


def test_costs_are_those_of_the_encoder_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(comparison, "ROUNDS", 1)
    encoders = ("dense", "focus_keep10")
    configs = {x: cell_config(Cell("shapes", "dino", x, 0), None, 1, tmp_path) for x in encoders}
    costs = comparison.measure_costs(configs, (64, 64))
    assert costs["image_size"] == (64, 64)
    dense, focus = (costs["encoders"][x] for x in encoders)
    assert 0 < focus["gflops"] < dense["gflops"]
    assert min(dense["seconds"], focus["seconds"]) > 0
    # Two layers of 8 * 8 + 4 * 4 + 2 * 2 + 1 tokens of 64 channels, four heads, four levels, four
    # points: projections of values and outputs, offsets and weights, sampling, feed-forward.
    token = 2 * 64 * 64 + 64 * 64 * 3 + 4 * 64 * 16 + 2 * 64 * 128
    norms = dense["gflops"] * 1e9 - 2 * 85 * token
    assert 0 <= norms < 0.05 * 2 * 85 * token
