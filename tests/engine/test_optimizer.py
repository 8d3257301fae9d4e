import pytest
import torch
from torch import nn

from lite_focus_detr.engine import build_optimizer


class Detector(nn.Module):
    """Parameters with the names that decide about learning rates."""

    def __init__(self):
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(3, 4, 1), nn.GroupNorm(2, 4))
        self.sampling_offsets = nn.Linear(4, 2)
        self.queries = nn.ModuleDict({"reference_points": nn.Linear(4, 2)})
        self.linear = nn.Linear(4, 4)
        self.frozen = nn.Linear(4, 4).requires_grad_(False)


def settings(optimizer, parameter):
    (group,) = [g for g in optimizer.param_groups if any(p is parameter for p in g["params"])]
    return group["lr"], group["weight_decay"]


@pytest.fixture
def cfg(make_cfg):
    return make_cfg(
        *("SOLVER.BASE_LR", 2e-4, "SOLVER.BACKBONE_MULTIPLIER", 0.25),
        *("SOLVER.SAMPLING_MULTIPLIER", 0.5, "SOLVER.WEIGHT_DECAY", 0.01),
        *("SOLVER.WEIGHT_DECAY_NORM", 0.0, "SOLVER.WEIGHT_DECAY_BIAS", 0.01),
    )


def test_backbone_and_sampling_layers_have_their_own_learning_rates(cfg):
    model = Detector()
    optimizer = build_optimizer(cfg, model)
    assert isinstance(optimizer, torch.optim.AdamW)
    assert settings(optimizer, model.linear.weight) == (2e-4, 0.01)
    assert settings(optimizer, model.backbone[0].weight) == (5e-5, 0.01)
    assert settings(optimizer, model.backbone[1].weight) == (5e-5, 0.0)
    assert settings(optimizer, model.sampling_offsets.bias) == (1e-4, 0.01)
    assert settings(optimizer, model.queries["reference_points"].weight) == (1e-4, 0.01)


def test_every_trainable_parameter_is_optimised_once_and_no_frozen_one(cfg):
    model = Detector()
    optimised = [p for g in build_optimizer(cfg, model).param_groups for p in g["params"]]
    trainable = [p for p in model.parameters() if p.requires_grad]
    assert sorted(map(id, optimised)) == sorted(map(id, trainable))


def test_another_optimiser_is_refused_with_the_remedy(cfg):
    cfg.SOLVER.OPTIMIZER = "SGD"
    with pytest.raises(ValueError, match=r"SOLVER\.OPTIMIZER is 'SGD'.*set SOLVER.OPTIMIZER AdamW"):
        build_optimizer(cfg, Detector())


def test_biases_and_norms_have_their_own_weight_decay(cfg):
    cfg.SOLVER.WEIGHT_DECAY_NORM, cfg.SOLVER.WEIGHT_DECAY_BIAS = 0.02, 0.03
    cfg.SOLVER.BIAS_LR_FACTOR = 3.0
    model = Detector()
    optimizer = build_optimizer(cfg, model)
    assert settings(optimizer, model.linear.weight)[1] == 0.01
    assert settings(optimizer, model.linear.bias) == (pytest.approx(6e-4), 0.03)
    assert settings(optimizer, model.backbone[1].weight)[1] == 0.02


@pytest.mark.parametrize(
    ("clip_type", "clipped"),
    [("value", [0.1, -0.1]), ("norm", [0.06, -0.08]), ("full_model", None)],
)
def test_gradients_are_clipped_per_parameter_unless_the_step_clips_all(cfg, clip_type, clipped):
    cfg.SOLVER.CLIP_GRADIENTS.ENABLED = True
    cfg.SOLVER.CLIP_GRADIENTS.CLIP_TYPE = clip_type
    cfg.SOLVER.CLIP_GRADIENTS.CLIP_VALUE = 0.1
    model = nn.Linear(2, 1, bias=False)
    optimizer = build_optimizer(cfg, model)
    model.weight.grad = torch.tensor([[3.0, -4.0]])
    optimizer.step()
    expected = [3.0, -4.0] if clipped is None else clipped
    assert model.weight.grad[0].tolist() == pytest.approx(expected, rel=1e-4)


def test_on_the_cpu_it_is_not_fused(cfg):
    (options,) = {(g["fused"], g["foreach"]) for g in build_optimizer(cfg, Detector()).param_groups}
    assert options == (False, True)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_gpu_it_is_fused(cfg):
    (options,) = {
        (g["fused"], g["foreach"]) for g in build_optimizer(cfg, Detector().cuda()).param_groups
    }
    assert options == (True, False)
