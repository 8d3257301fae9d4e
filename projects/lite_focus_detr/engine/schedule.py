"""The length of a training in epochs, turned into the iterations that detectron2 counts in."""

from __future__ import annotations

import math
import os

from detectron2.config import CfgNode

from ..config.schedule import DEFAULT_STEPS
from .checkpoint_io import write_atomically


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
    if solver.STEP_EPOCHS or tuple(solver.STEPS) == DEFAULT_STEPS:
        cfg.SOLVER.STEPS = tuple(iterations(step) for step in solver.STEP_EPOCHS)
    cfg.freeze()
    return cfg


def update_saved_config(cfg: CfgNode) -> None:
    """Write the iterations to the ``config.yaml`` that detectron2 has written to ``OUTPUT_DIR``.

    Args:
        cfg: of :func:`resolve_epochs`.

    Raises:
        OSError: it cannot be written.
    """
    path = os.path.join(cfg.OUTPUT_DIR, "config.yaml")
    if os.path.isfile(path):
        write_atomically(path, lambda file: file.write(cfg.dump().encode()))


def describe_schedule(cfg: CfgNode, num_images: int) -> str:
    """The length of a training, its steps and evaluations, in one line.

    Args:
        cfg: of :func:`resolve_epochs`.
        num_images: images of the training set that are really used.
    """
    solver = cfg.SOLVER
    batch = str(solver.IMS_PER_BATCH)
    if solver.ACCUMULATION_STEPS > 1:
        batch = f"({batch} x {solver.ACCUMULATION_STEPS})"
    if solver.EPOCHS > 0:
        length = f"{solver.EPOCHS:g} epochs x {num_images} images / {batch} = "
        length += f"{solver.MAX_ITER} iterations"
    else:
        images = solver.MAX_ITER * solver.IMS_PER_BATCH * solver.ACCUMULATION_STEPS
        length = f"{solver.MAX_ITER} iterations x {batch} images = "
        length += f"{images / num_images:.3g} epochs of {num_images}"
    period = cfg.TEST.EVAL_PERIOD
    evaluation = f"every {period}" if 0 < period < solver.MAX_ITER else "at the end"
    return f"{length}, {_describe_steps(cfg)}, evaluation {evaluation}"


def _describe_steps(cfg: CfgNode) -> str:
    solver = cfg.SOLVER
    if solver.LR_SCHEDULER_NAME != "WarmupMultiStepLR":
        return str(solver.LR_SCHEDULER_NAME)
    steps = [str(step) for step in solver.STEPS if step < solver.MAX_ITER]
    return f"step{'s' * (len(steps) > 1)} at {' and '.join(steps)}" if steps else "no step"
