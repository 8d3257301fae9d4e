"""Disks without space, through ``train_net.py``."""

import json
import resource

import pytest
import torch
from detectron2.engine import default_argument_parser

from lite_focus_detr.engine import run


@pytest.mark.fault(area="training", expected="survived")
@pytest.mark.parametrize("name", ["log.txt", "metrics.json"])
def test_a_training_goes_on_without_a_log_that_cannot_be_written(train, tmp_path, name):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / name).symlink_to("/dev/full")
    done = train("SOLVER.CHECKPOINT_PERIOD", 1).succeeded()
    assert "annot write" in done.output + done.errors
    assert (done.output + done.errors).count("No space left on device") <= 3
    assert torch.load(tmp_path / "out/model_final.pth", weights_only=True)["iteration"] == 1


@pytest.mark.fault(area="training", expected="stopped")
def test_a_checkpoint_that_cannot_be_written_is_one_line_and_the_last_one_is_whole(
    call, train, train_net, tmp_path
):
    train("SOLVER.CHECKPOINT_PERIOD", 1, "SOLVER.MAX_ITER", 1).succeeded()
    whole = (tmp_path / "out/model_final.pth").read_bytes()
    folders = ["DATASETS.SHAPES.ROOT", f"{tmp_path}/shapes", "OUTPUT_DIR", f"{tmp_path}/out"]
    config = str(next(tmp_path.glob("out/config.yaml")))
    args = default_argument_parser().parse_args(
        ["--config-file", config, "--resume", *folders, "SOLVER.MAX_ITER", "2"]
    )

    def limited():
        _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(whole) // 2, hard))
        run(train_net["main"], args)

    line = call(limited).refusal()
    assert "could not write " in line
    assert "earlier checkpoints are intact: free some space and continue with --resume" in line
    assert (tmp_path / "out/model_final.pth").read_bytes() == whole
    assert not list((tmp_path / "out").glob("*.tmp*"))


@pytest.mark.fault(area="training", expected="stopped")
@pytest.mark.parametrize("change", ["SOLVER.BASE_LR", "SOLVER.WEIGHT_DECAY"])
def test_a_training_that_is_no_longer_finite_is_one_line_and_leaves_a_report(
    train, tmp_path, change
):
    line = train(change, "1e30", "SOLVER.MAX_ITER", 5, "SOLVER.CHECKPOINT_PERIOD", 1).refusal()
    assert "not finite" in line
    for path in (tmp_path / "out").glob("*.pth"):
        weights = torch.load(path, weights_only=True)["model"]
        assert all(tensor.isfinite().all() for tensor in weights.values())
    (report,) = (tmp_path / "out").glob("nonfinite_*.json")
    assert str(report) in line
    content = json.loads(report.read_text())
    assert content["parameters"][0]["name"]
    assert report.name == f"nonfinite_{content['iteration']}.json"
