"""AdamW with the learning-rate groups of the DETR family."""

from __future__ import annotations

from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.solver import get_default_optimizer_params
from detectron2.solver.build import maybe_add_gradient_clipping
from torch import nn

SAMPLING_LAYERS = ("sampling_offsets", "reference_points")
# Clipping by the norm of all gradients together; detectron2 itself clips per parameter only.
FULL_MODEL = "full_model"


def adamw(
    parameters: list[dict[str, Any]], rate: float, weight_decay: float, *, fused: bool
) -> torch.optim.AdamW:
    """AdamW in one kernel for all parameters, or in one for each of its operations.

    Args:
        parameters: groups with ``params``.
        rate: learning rate of groups that have none of their own.
        weight_decay: likewise.
        fused: one kernel, which also leaves a step out after an overflow without the host.
    """
    return torch.optim.AdamW(
        parameters, lr=rate, weight_decay=weight_decay, fused=fused, foreach=not fused
    )


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
    optimizer = adamw(parameters, solver.BASE_LR, solver.WEIGHT_DECAY, fused=on_gpu)
    if solver.CLIP_GRADIENTS.CLIP_TYPE == FULL_MODEL:
        return optimizer
    return maybe_add_gradient_clipping(cfg, optimizer)
