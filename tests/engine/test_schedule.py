import pytest
import torch
from detectron2.solver import build_lr_scheduler

from lite_focus_detr.engine import resolve_epochs


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
