import json
import logging
import re
from itertools import islice

import pytest
import torch
from detectron2.modeling import build_model
from PIL import Image

from lite_focus_detr.engine import DetrTrainer


@pytest.fixture
def trained(setup, make_args, tmp_path):
    """Train from the command line; returns the trainer and the metrics of its evaluation."""

    def train(*arguments):
        trainer = DetrTrainer(setup(make_args(*arguments)))
        trainer.resume_or_load(resume="--resume" in arguments)
        trainer.train()
        return trainer

    return train


def detections(tmp_path):
    return json.loads((tmp_path / "out/inference/coco_instances_results.json").read_text())


EMA = ("MODEL.EMA.ENABLED", "True", "MODEL.EMA.DECAY", "0.5")


@pytest.mark.parametrize("ema", [(), EMA])
def test_evaluation_only_finds_what_the_evaluation_in_training_found(
    setup, trained, make_args, tmp_path, ema
):
    trainer = trained(*ema)
    in_training = detections(tmp_path)
    weights = ("MODEL.WEIGHTS", str(tmp_path / "out/model_final.pth"))
    cfg = setup(make_args("--eval-only", *ema, *weights))
    results = DetrTrainer.test(cfg, DetrTrainer.load_model(cfg))
    assert results["bbox"]["AP"] == trainer._last_eval_results["bbox"]["AP"]
    again = detections(tmp_path)
    assert len(in_training) > 0
    assert len(again) == len(in_training)
    for detection, expected in zip(again, in_training, strict=True):
        assert detection["category_id"] == expected["category_id"]
        # The last bit depends on where in memory the image happens to lie.
        assert detection["score"] == pytest.approx(expected["score"], rel=1e-6)
        assert detection["bbox"] == pytest.approx(expected["bbox"], rel=1e-6, abs=1e-6)


def test_evaluation_in_training_uses_the_averaged_weights(trained, tmp_path):
    # With decay 1 the average stays at the weights of the start, whatever is learnt.
    frozen = ("MODEL.EMA.ENABLED", "True", "MODEL.EMA.DECAY", "1.0", "SEED", "1")
    trained(*frozen, "SOLVER.MAX_ITER", "1")
    after_one = detections(tmp_path)
    trained(*frozen, "SOLVER.MAX_ITER", "3")
    scores = [detection["score"] for detection in detections(tmp_path)]
    assert scores == pytest.approx([detection["score"] for detection in after_one], rel=1e-6)


def test_metrics_are_written_for_people_json_and_tensorboard(trained, tmp_path):
    trained()
    lines = (tmp_path / "out/metrics.json").read_text().splitlines()
    metrics = {key for line in lines for key in json.loads(line)}
    assert {"total_loss", "loss_class", "loss_bbox_0", "lr", "bbox/AP"} <= metrics
    assert list((tmp_path / "out").glob("events.out.tfevents.*"))
    assert "total_loss" in (tmp_path / "out/log.txt").read_text()


def test_a_resumed_training_continues_where_the_last_one_stopped(trained):
    first = trained(*EMA)
    assert first.checkpointer.checkpointables["ema"].n_averaged == 3  # the start and 2 steps
    optimizer = first.optimizer.state_dict()
    resumed = DetrTrainer(first.cfg)
    resumed.resume_or_load(resume=True)
    assert resumed.start_iter == 2
    assert resumed.ema.average.n_averaged == 3
    for name, tensor in first.model.state_dict().items():
        assert torch.equal(tensor, resumed.model.state_dict()[name])
    for index, state in optimizer["state"].items():
        restored = resumed.optimizer.state_dict()["state"][index]
        assert torch.equal(restored["exp_avg"], state["exp_avg"])


def test_the_length_in_epochs_becomes_iterations_of_the_real_data_set(setup, make_args):
    # 4 images in 2 accumulated batches of 1 are 2 iterations per epoch.
    changes = ("SOLVER.EPOCHS", "3", "SOLVER.STEP_EPOCHS", "[2]", "SOLVER.IMS_PER_BATCH", "1")
    trainer = DetrTrainer(setup(make_args(*changes, "SOLVER.ACCUMULATION_STEPS", "2")))
    assert trainer.max_iter == trainer.cfg.SOLVER.MAX_ITER == 6
    assert trainer.cfg.SOLVER.STEPS == (4,)


def test_evaluation_refuses_weights_of_other_classes(setup, make_args, make_cfg, tmp_path):
    other = build_model(make_cfg("MODEL.DETR.NUM_CLASSES", 7))
    torch.save({"model": other.state_dict()}, tmp_path / "seven.pth")
    cfg = setup(make_args("--eval-only", "MODEL.WEIGHTS", str(tmp_path / "seven.pth")))
    with pytest.raises(ValueError, match="the file has 7 classes"):
        DetrTrainer.load_model(cfg)


@pytest.mark.parametrize(
    ("clip_type", "enabled", "max_norm"),
    [("full_model", "True", 0.25), ("full_model", "False", None), ("value", "True", None)],
)
def test_the_step_is_that_of_the_configuration(setup, make_args, clip_type, enabled, max_norm):
    clip = "SOLVER.CLIP_GRADIENTS"
    args = make_args(
        *(f"{clip}.CLIP_TYPE", clip_type, f"{clip}.ENABLED", enabled),
        *(f"{clip}.CLIP_VALUE", "0.25", f"{clip}.NORM_TYPE", "1.0"),
        *("SOLVER.ACCUMULATION_STEPS", "2"),
        *("SOLVER.AMP.ENABLED", "True", "SOLVER.AMP.DTYPE", "bfloat16"),
    )
    step = DetrTrainer(setup(args))._trainer
    assert (step.max_grad_norm, step.norm_type) == (max_norm, 1.0)
    assert (step.accumulation_steps, step.amp_dtype) == (2, torch.bfloat16)


def test_without_amp_the_step_is_in_full_precision(setup, make_args):
    args = make_args("SOLVER.AMP.ENABLED", "False", "SOLVER.AMP.DTYPE", "bfloat16")
    assert DetrTrainer(setup(args))._trainer.amp_dtype is None


@pytest.mark.parametrize(("filtered", "iterations"), [("True", 2), ("False", 6)])
def test_images_without_boxes_count_only_if_they_are_trained_on(
    setup, make_args, tmp_path, filtered, iterations
):
    images = [
        {"id": number, "file_name": f"{number}.png", "height": 8, "width": 8}
        for number in (1, 2, 3)
    ]
    box = {"id": 1, "image_id": 2, "category_id": 1, "bbox": [1, 1, 4, 4], "area": 16, "iscrowd": 0}
    categories = [{"id": number, "name": str(number)} for number in (1, 2, 3)]
    content = {"images": images, "annotations": [box], "categories": categories}
    (tmp_path / "a.json").write_text(json.dumps(content))
    for image in images:
        Image.new("RGB", (8, 8)).save(tmp_path / image["file_name"])
    entry = f"[['{tmp_path.name}', '{tmp_path / 'a.json'}', '{tmp_path}']]"
    args = make_args(
        *("DATASETS.COCO", entry, "DATASETS.TRAIN", f"('{tmp_path.name}',)"),
        *("DATALOADER.FILTER_EMPTY_ANNOTATIONS", filtered),
        *("SOLVER.EPOCHS", "2", "SOLVER.STEP_EPOCHS", "[1]", "SOLVER.IMS_PER_BATCH", "1"),
    )
    assert DetrTrainer(setup(args)).max_iter == iterations


@pytest.mark.parametrize("ema", [(), EMA])
def test_the_evaluations_have_their_own_period(trained, monkeypatch, ema):
    evaluated = []
    test = staticmethod(lambda cfg, model: evaluated.append(model) or {})
    monkeypatch.setattr(DetrTrainer, "test", test)
    periods = ("TEST.EVAL_PERIOD", "2", "SOLVER.CHECKPOINT_PERIOD", "1")
    trained(*ema, *periods, "SOLVER.MAX_ITER", "5")
    assert len(evaluated) == 3  # After iterations 2, 4 and 5, the last.


def test_the_learning_rate_of_a_resumed_training_is_the_configured_one(
    setup, trained, make_args, tmp_path, caplog, monkeypatch
):
    schedule = ("SOLVER.STEPS", "(3,)", "SOLVER.GAMMA", "0.1", "SOLVER.MAX_ITER", "4")
    trained(*schedule, "SOLVER.BASE_LR", "0.01")
    # Another rate, a later step, a longer training, and groups that are merged.
    changes = ("SOLVER.BASE_LR", "0.02", "SOLVER.STEPS", "(5,)", "SOLVER.MAX_ITER", "6")
    args = make_args("--resume", *schedule, *changes, "SOLVER.BACKBONE_MULTIPLIER", "1.0")
    trainer = DetrTrainer(setup(args))
    monkeypatch.setattr(logging.getLogger("lite_focus_detr"), "propagate", True)
    trainer.resume_or_load(resume=True)
    assert {group["lr"] for group in trainer.optimizer.param_groups} == {0.02}
    (shown,) = {x.getMessage() for x in caplog.records if "have changed" in x.getMessage()}
    assert re.search(r"SOLVER.BASE_LR +0.01 +0.02\n", shown)
    assert "SOLVER.STEPS" in shown
    assert "DATASETS" not in shown
    trainer.train()
    lines = (tmp_path / "out/metrics.json").read_text().splitlines()
    rates = {row["iteration"]: row["lr"] for row in map(json.loads, lines) if "lr" in row}
    # As from the start with the longer schedule: nothing was due after the fourth iteration.
    assert rates == {5: pytest.approx(0.002)}


def test_a_resumed_training_with_another_model_or_seed_is_refused(trained, setup, make_args):
    trained("SEED", "3")
    for option, message in {
        ("MODEL.DETR.NUM_QUERIES", "7"): r"MODEL.DETR.NUM_QUERIES was 6, is 7\); set it back",
        ("SEED", "4"): "with SEED 4: .* set SEED 3",
    }.items():
        trainer = DetrTrainer(setup(make_args("--resume", "SEED", "3", *option)))
        with pytest.raises(ValueError, match=message):
            trainer.resume_or_load(resume=True)


def test_another_batch_size_goes_on_in_the_data_and_says_that_it_is_not_exact(
    trained, setup, make_args, caplog, monkeypatch
):
    first = trained("SEED", "3")  # 2 batches of 2 of the 4 images
    trainer = DetrTrainer(setup(make_args("--resume", "SEED", "3", "SOLVER.IMS_PER_BATCH", "1")))
    monkeypatch.setattr(logging.getLogger("lite_focus_detr"), "propagate", True)
    trainer.resume_or_load(resume=True)
    assert "not be bit for bit" in caplog.text
    assert "images per process 2 to 1" in caplog.text
    seen = list(islice(first.stream.positions(), 4))
    following = list(islice(trainer.stream.positions(), 4))
    # Grouping may keep one of each orientation back.
    assert sorted({*seen, *following})[: len(seen)] == [0, 1, 2, 3]
    assert following[0] >= 2
