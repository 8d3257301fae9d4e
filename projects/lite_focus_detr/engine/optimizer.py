"""AdamW with the learning-rate groups of the DETR family."""

from __future__ import annotations

import torch
from detectron2.config import CfgNode
from detectron2.solver import get_default_optimizer_params
from detectron2.solver.build import maybe_add_gradient_clipping
from torch import nn

SAMPLING_LAYERS = ("sampling_offsets", "reference_points")
# Clipping by the norm of all gradients together; detectron2 itself clips per parameter only.
FULL_MODEL = "full_model"


def build_optimizer(cfg: CfgNode, model: nn.Module) -> torch.optim.Optimizer:
    """Build the optimiser of a detector.

    Parameters of the backbone train at ``SOLVER.BACKBONE_MULTIPLIER`` times ``BASE_LR``, those of
    the layers that place sampling points at ``SOLVER.SAMPLING_MULTIPLIER`` times (Deformable DETR,
    appendix A.4). ``CLIP_TYPE full_model`` is left to the training step, which has to undo the
    loss scaling first; the other types are detectron2's.

    Raises:
        ValueError: ``SOLVER.OPTIMIZER`` is not AdamW.
    """
    solver = cfg.SOLVER
    if solver.OPTIMIZER != "AdamW":
        raise ValueError(
            f"SOLVER.OPTIMIZER is {solver.OPTIMIZER!r}, but only AdamW is implemented: "
            "set SOLVER.OPTIMIZER AdamW"
        )

    def learning_rate_factor(name: str) -> float:
        """Learning rate of a parameter relative to ``BASE_LR``."""
        if name.startswith("backbone."):
            return float(solver.BACKBONE_MULTIPLIER)
        if any(layer in name.split(".") for layer in SAMPLING_LAYERS):
            return float(solver.SAMPLING_MULTIPLIER)
        return 1.0

    parameters = get_default_optimizer_params(
        model,
        base_lr=solver.BASE_LR,
        weight_decay_norm=solver.WEIGHT_DECAY_NORM,
        bias_lr_factor=solver.BIAS_LR_FACTOR,
        weight_decay_bias=solver.WEIGHT_DECAY_BIAS,
        lr_factor_func=learning_rate_factor,
    )
    on_gpu = all(parameter.is_cuda for group in parameters for parameter in group["params"])
    options = {"lr": solver.BASE_LR, "weight_decay": solver.WEIGHT_DECAY}
    # Fused, it is one kernel that also leaves a step out after an overflow without the host.
    optimizer = torch.optim.AdamW(parameters, **options, fused=on_gpu, foreach=not on_gpu)
    if solver.CLIP_GRADIENTS.CLIP_TYPE == FULL_MODEL:
        return optimizer
    return maybe_add_gradient_clipping(cfg, optimizer)
