import argparse
import importlib
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from lite_focus_detr import model_zoo
from lite_focus_detr.analysis.training_memory import BatchShape, TrainingMemory
from lite_focus_detr.tools import analyze_model, memory_plan
from lite_focus_detr.tools.benchmark.peak_memory import CLEAR_REFS, peak_memories

GB = 1e9
DEV = str(Path(__file__).parents[2] / "dev")


@pytest.mark.slow
@pytest.mark.skipif(not CLEAR_REFS.exists(), reason="needs Linux")
def test_the_memory_of_whole_trainings_is_predicted(monkeypatch):
    monkeypatch.syspath_prepend(DEV)  # the other process imports it, too
    script = importlib.import_module("check_memory_plan")
    numbers = [3, 4]  # Lite with checkpointing and an average, Focus with accumulation
    measured = peak_memories(partial(script.make_workloads, numbers), "cpu")
    for number in numbers:
        predicted = script.predict(script.TRAININGS[number])
        assert predicted == pytest.approx(measured[number], rel=0.1), number


def make_memory(per_image):
    moments = np.array([[0.0, per_image, 0.0]])
    return TrainingMemory(int(GB), int(GB), int(2 * GB), 0, moments, np.array([0.0]))


@pytest.fixture
def cfg():
    return model_zoo.get_config("deformable_detr/dino_r50_12ep")  # 16 images


@pytest.mark.parametrize(
    ("limit", "batch", "steps", "peak", "most"),
    # 3 GB stay, each image takes 2 GB, gradients that wait for later batches 1 GB.
    [
        (35, 16, 1, 35, 16),
        (34, 8, 2, 20, 15),
        (8, 2, 8, 8, 2),
        (7.9, 1, 16, 6, 2),
        (5.9, 0, 0, 6, 1),
    ],
)
def test_the_largest_batch_that_divides_the_recipe_is_taken(cfg, limit, batch, steps, peak, most):
    plan = memory_plan.make_plan(cfg, make_memory(2 * GB), (False, False), limit * GB)
    assert plan[2:] == (batch, steps, pytest.approx(peak * GB), most)
    assert plan[:2] == ("float32", False)


def test_images_are_as_large_as_those_of_the_training(cfg):
    assert memory_plan.largest_image(cfg) == (800, 1333)
    cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.MAX_SIZE_TRAIN = 640, 400
    assert memory_plan.largest_image(cfg) == (640, 640)


@pytest.mark.parametrize(
    ("name", "smaller"), [("dino_small", (128, 256)), ("deformable_detr/dino_r50_12ep", (256, 416))]
)
def test_measured_images_have_more_tokens_than_there_are_queries(name, smaller):
    config = model_zoo.get_config(name)
    one, two, large = memory_plan.measured_shapes(config)
    assert (one, two) == (BatchShape(1, *smaller), BatchShape(2, *smaller))
    assert large.images == 1
    assert large.height * large.width > 2 * one.height * one.width
    height, width = smaller
    tokens = sum((height // stride) * (width // stride) for stride in (8, 16, 32, 64))
    assert tokens > config.MODEL.DETR.NUM_QUERIES


def test_objects_lie_in_the_images():
    batch = memory_plan.make_batch(BatchShape(2, 60, 100), 5)
    assert [tuple(x["image"].shape) for x in batch] == [(3, 60, 100)] * 2
    for x in batch:
        boxes = x["instances"].gt_boxes.tensor
        assert (boxes >= 0).all()
        assert (boxes[:, 2:] <= torch.tensor([100, 60])).all()
        assert (boxes[:, 2:] > boxes[:, :2]).all()
        assert x["instances"].gt_classes.max() < 5


def test_the_command_prints_what_fits(small_config_file, capsys, monkeypatch):
    measured = []

    def measure(cfg, checkpointing, half):
        measured.append((checkpointing, half))
        return make_memory((0.5 if half else 1) * (0.5 if checkpointing else 1) * 12 * GB)

    monkeypatch.setattr(memory_plan, "measure", measure)
    options = ["SOLVER.IMS_PER_BATCH", "4"]
    analyze_model.main(["--config-file", small_config_file, "--fit", "20GB", "--opts", *options])
    assert sorted(measured) == [(False, False), (False, True), (True, False), (True, True)]
    lines = capsys.readouterr().out.splitlines()
    assert "weights 1.00, gradients 1.00, optimiser 2.00 GB" in lines[0]
    rows = [line.split() for line in lines[3:7]]
    # 18 GB, a tenth less than there is, with 3 GB that stay: 12, 6, 6 and 3 GB for an image.
    assert rows == [
        ["float32", "no", "1", "4", "16.00", "1"],
        ["half", "no", "2", "2", "16.00", "2"],
        ["float32", "yes", "2", "2", "16.00", "2"],
        ["half", "yes", "4", "1", "15.00", "5"],
    ]
    assert lines[7].endswith(
        "--opts SOLVER.IMS_PER_BATCH 4 SOLVER.ACCUMULATION_STEPS 1 "
        "MODEL.DETR.GRADIENT_CHECKPOINTING True SOLVER.AMP.ENABLED True"
    )


def test_what_does_not_fit_is_said(cfg):
    plan = memory_plan.make_plan(cfg, make_memory(50 * GB), (True, True), 20 * GB)
    assert "does not fit" in memory_plan.table([plan])
    assert "No way to train fits into 20.00 GB" in memory_plan.advice([plan], 20 * GB)


@pytest.mark.parametrize(
    ("text", "number"),
    [("24GB", 24e9), ("24", None), ("16000MB", 16e9), ("0GB", None), ("1.5 GiB", 1.5e9)],
)
def test_memory_has_a_unit(text, number):
    if number is None:
        with pytest.raises(argparse.ArgumentTypeError, match="no memory such as 24GB"):
            memory_plan.parse_memory(text)
    else:
        assert memory_plan.parse_memory(text) == number
