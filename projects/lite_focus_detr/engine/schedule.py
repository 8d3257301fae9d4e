"""The length of a training in epochs, turned into the iterations that detectron2 counts in."""

from __future__ import annotations

import math

from detectron2.config import CfgNode


def resolve_epochs(cfg: CfgNode, num_images: int) -> CfgNode:
    """Derive ``SOLVER.MAX_ITER`` and ``SOLVER.STEPS`` from ``SOLVER.EPOCHS`` and ``STEP_EPOCHS``.

    Args:
        cfg: the configuration; returned as it is when ``SOLVER.EPOCHS`` is 0.
        num_images: images of the training set that are really used, after filtering.

    Returns:
        a copy with the iterations filled in. An iteration is one optimiser step, that is
        ``IMS_PER_BATCH * ACCUMULATION_STEPS`` images.

    Raises:
        ValueError: the training set is empty or a step lies beyond the end.
    """
    solver = cfg.SOLVER
    if num_images < 1:
        raise ValueError(
            f"DATASETS.TRAIN {tuple(cfg.DATASETS.TRAIN)} has no usable image; look at the JSON or "
            "set DATALOADER.FILTER_EMPTY_ANNOTATIONS False"
        )
    if solver.EPOCHS <= 0:
        return cfg
    if any(step >= solver.EPOCHS for step in solver.STEP_EPOCHS):
        raise ValueError(
            f"SOLVER.STEP_EPOCHS {list(solver.STEP_EPOCHS)} must lie before the end of the "
            f"training, SOLVER.EPOCHS {solver.EPOCHS}"
        )
    images_per_iteration = solver.IMS_PER_BATCH * solver.ACCUMULATION_STEPS

    def iterations(epochs: float) -> int:
        """Optimiser steps of some epochs, a last incomplete batch included."""
        return math.ceil(epochs * num_images / images_per_iteration)

    cfg = cfg.clone()
    cfg.defrost()
    cfg.SOLVER.MAX_ITER = iterations(solver.EPOCHS)
    cfg.SOLVER.STEPS = tuple(iterations(step) for step in solver.STEP_EPOCHS)
    cfg.freeze()
    return cfg
