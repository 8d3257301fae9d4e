import pytest
import torch
from detectron2.solver import build_lr_scheduler

from lite_focus_detr.config import load_config
from lite_focus_detr.engine import DetrTrainer, resolve_epochs
from lite_focus_detr.engine.schedule import describe_schedule, update_saved_config


def test_twelve_epochs_of_coco_in_batches_of_16_are_88_thousand_iterations(make_cfg):
    cfg = make_cfg("SOLVER.EPOCHS", 12, "SOLVER.STEP_EPOCHS", [11], "SOLVER.IMS_PER_BATCH", 16)
    solver = resolve_epochs(cfg, 117266).SOLVER
    # 117266 / 16 = 7329.125 iterations per epoch
    assert solver.MAX_ITER == 87950
    assert solver.STEPS == (80621,)


def test_accumulated_batches_count_as_one_iteration(make_cfg):
    cfg = make_cfg("SOLVER.EPOCHS", 3, "SOLVER.IMS_PER_BATCH", 4, "SOLVER.ACCUMULATION_STEPS", 5)
    assert resolve_epochs(cfg, 100).SOLVER.MAX_ITER == 15


def test_the_learning_rate_drops_after_the_step_epoch(make_cfg):
    cfg = make_cfg("SOLVER.EPOCHS", 4, "SOLVER.STEP_EPOCHS", [3], "SOLVER.GAMMA", 0.1)
    cfg = resolve_epochs(cfg, 10)
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    scheduler = build_lr_scheduler(cfg, optimizer)
    rates = []
    for _ in range(cfg.SOLVER.MAX_ITER):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    assert rates == pytest.approx([1.0] * 15 + [0.1] * 5)


def test_without_epochs_the_iterations_stay_as_configured(make_cfg):
    assert resolve_epochs(make_cfg("SOLVER.MAX_ITER", 123), 100).SOLVER.MAX_ITER == 123


def test_a_step_beyond_the_end_is_refused(make_cfg):
    cfg = make_cfg("SOLVER.EPOCHS", 12, "SOLVER.STEP_EPOCHS", [12])
    with pytest.raises(ValueError, match=r"STEP_EPOCHS \[12\] must lie before .*SOLVER\.EPOCHS 12"):
        resolve_epochs(cfg, 100)


def test_an_empty_training_set_is_refused(make_cfg):
    with pytest.raises(ValueError, match=r"shapes_train.* has no usable image"):
        resolve_epochs(make_cfg(), 0)


def test_steps_in_iterations_of_the_command_line_stay(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text("SOLVER: {EPOCHS: 2, STEP_EPOCHS: [1], IMS_PER_BATCH: 4}\n")
    cfg = resolve_epochs(load_config(str(path), ["SOLVER.STEPS", "(30,)"]), 100)
    assert (cfg.SOLVER.MAX_ITER, cfg.SOLVER.STEPS) == (50, (30,))


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        (
            ("SOLVER.EPOCHS", 36, "SOLVER.STEP_EPOCHS", [30], "TEST.EVAL_PERIOD", 500),
            "36 epochs x 205 images / 4 = 1845 iterations, step at 1538, evaluation every 500",
        ),
        (
            ("SOLVER.EPOCHS", 2, "SOLVER.ACCUMULATION_STEPS", 5),
            "2 epochs x 205 images / (4 x 5) = 21 iterations, no step, evaluation at the end",
        ),
        (
            ("SOLVER.MAX_ITER", 80, "SOLVER.STEPS", (60, 70)),
            "80 iterations x 4 images = 1.56 epochs of 205, steps at 60 and 70, evaluation at the "
            "end",
        ),
        (
            ("SOLVER.MAX_ITER", 80, "SOLVER.LR_SCHEDULER_NAME", "WarmupCosineLR"),
            "80 iterations x 4 images = 1.56 epochs of 205, WarmupCosineLR, evaluation at the end",
        ),
    ],
)
def test_the_schedule_is_one_line(make_cfg, changes, line):
    cfg = resolve_epochs(make_cfg("SOLVER.IMS_PER_BATCH", 4, *changes), 205)
    assert describe_schedule(cfg, 205) == line


def test_the_saved_configuration_has_the_iterations(setup, make_args, tmp_path):
    args = make_args()
    args.opts += ["SOLVER.EPOCHS", "1.5", "SOLVER.STEP_EPOCHS", "[1]"]
    DetrTrainer(setup(args))
    saved = load_config(str(tmp_path / "out/config.yaml")).SOLVER
    # Four images in batches of two.
    assert (saved.MAX_ITER, saved.EPOCHS, saved.STEP_EPOCHS) == (3, 1.5, [1])
    text = (tmp_path / "out/config.yaml").read_text()
    assert "  STEPS:\n  - 2\n" in text


def test_without_a_saved_configuration_none_is_written(make_cfg, tmp_path):
    update_saved_config(make_cfg())
    assert not (tmp_path / "out/config.yaml").exists()
