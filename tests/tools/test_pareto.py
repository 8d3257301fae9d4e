import numpy as np
import pytest
import torch
from detectron2.modeling import build_model

from lite_focus_detr.tools import analyze_model, pareto


@pytest.fixture
def trained(small_config, tmp_path):
    """Configuration file and weights of a small detector that selects tokens."""

    def make(architecture):
        small_config.MODEL.META_ARCHITECTURE = architecture
        small_config.MODEL.SPARSE.AUX_HEADS = False
        config_file, weights = tmp_path / "sparse.yaml", tmp_path / "weights.pth"
        config_file.write_text(small_config.dump())
        torch.save({"model": build_model(small_config).state_dict()}, weights)
        return ["--config-file", str(config_file), "--weights", str(weights)]

    return make


def test_every_budget_is_evaluated_and_drawn(trained, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(pareto, "KEEP_RATIOS", (0.1, 1.0))
    picture = tmp_path / "budgets.png"
    analyze_model.main(["--pareto", str(picture), *trained("SparseDETR")])
    assert picture.read_bytes().startswith(b"\x89PNG")
    lines = capsys.readouterr().out.splitlines()
    start = next(i for i, line in enumerate(lines) if "keep ratio" in line)
    rows = [
        [float(x) for x in line.strip("| ").split("|")] for line in lines[start + 2 : start + 4]
    ]
    ratios, aps, gflops, milliseconds = zip(*rows, strict=True)
    assert ratios == (0.1, 1.0)
    assert all(0 <= ap <= 100 or np.isnan(ap) for ap in aps)
    assert gflops[0] < gflops[1]
    assert min(milliseconds) > 0
    # The last evaluation of the training, if there was one, has its detections in this folder.
    assert not (tmp_path / "output/inference").exists()


def test_a_detector_without_a_budget_is_refused_in_one_line(trained, tmp_path):
    with pytest.raises(SystemExit, match="DeformableEncoder updates all tokens"):
        analyze_model.main(["--pareto", str(tmp_path / "a.png"), *trained("DeformableDETR")])


def test_weights_are_asked_for(tmp_path):
    with pytest.raises(SystemExit, match="--weights"):
        analyze_model.main(["--pareto", str(tmp_path / "a.png"), "--config-file", "dino_shapes"])


def test_points_are_ap_over_both_costs():
    budgets = [pareto.Budget(0.1, 30.0, 5.0, 0.2), pareto.Budget(0.5, 40.0, 8.0, 0.4)]
    lines = [axes.lines[0] for axes in pareto.plot(budgets).axes]
    assert [list(line.get_xdata()) for line in lines] == [[5.0, 8.0], [200.0, 400.0]]
    assert [list(line.get_ydata()) for line in lines] == [[30.0, 40.0]] * 2
