import json

import pytest
import torch
from detectron2.modeling import build_model

from lite_focus_detr.data import register_datasets
from lite_focus_detr.tools.study.training import RESULT, last_metrics, token_recall, train


def test_the_last_evaluation_counts(tmp_path):
    lines = [{"iteration": 9, "bbox/AP": 1.0}, {"iteration": 19, "loss": 3.0}]
    lines += [{"iteration": 20, "bbox/AP": 2.0, "bbox/APs": 0.5}, {"iteration": 21, "time": 1.0}]
    file = tmp_path / "metrics.json"
    file.write_text("\n".join(map(json.dumps, lines)))
    assert last_metrics(file) == {"bbox/AP": 2.0, "bbox/APs": 0.5}


def test_metrics_without_an_evaluation_are_an_error(tmp_path):
    (tmp_path / "metrics.json").write_text('{"iteration": 19, "loss": 3.0}\n')
    with pytest.raises(ValueError, match="has no evaluation"):
        last_metrics(tmp_path / "metrics.json")


def test_an_encoder_that_keeps_all_tokens_recalls_all(small_config):
    small_config.MODEL.META_ARCHITECTURE = "SparseDETR"
    small_config.MODEL.SPARSE.KEEP_RATIO = 1.0
    small_config.MODEL.SPARSE.AUX_HEADS = False
    register_datasets(small_config)
    recall = token_recall(build_model(small_config).eval(), small_config, 2)
    assert recall["all"] == 1.0
    small_config.MODEL.META_ARCHITECTURE = "DeformableDETR"
    assert token_recall(build_model(small_config).eval(), small_config, 2) is None


def test_a_training_leaves_its_result_and_its_metrics(small_config, tmp_path):
    small_config.DATASETS.SHAPES.NUM_TRAIN = 4
    small_config.SOLVER.EPOCHS = 0
    small_config.SOLVER.MAX_ITER = 2
    small_config.SOLVER.STEPS = (1,)
    small_config.SOLVER.IMS_PER_BATCH = 2
    small_config.DATALOADER.NUM_WORKERS = 0
    small_config.INPUT.CROP.ENABLED = False
    small_config.INPUT.MIN_SIZE_TRAIN = (48,)
    threads = torch.get_num_threads()
    train(small_config, 2)
    torch.set_num_threads(threads)
    result = json.loads((tmp_path / "output" / RESULT).read_text())
    assert result["iterations"] == 2
    assert result["step_seconds"] > 0
    assert result["recall"] is None
    metrics = last_metrics(tmp_path / "output/metrics.json")
    assert result["ap"] == {key.removeprefix("bbox/"): value for key, value in metrics.items()}
