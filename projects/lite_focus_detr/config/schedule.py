"""What the command line says about the length of a training beats what files say."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator
from contextlib import contextmanager

from detectron2.config import CfgNode, get_cfg

# What means the same, in iterations and in epochs.
_LENGTH = ("MAX_ITER", "EPOCHS")
_STEPS = ("STEPS", "STEP_EPOCHS")
#: Of detectron2, which mean nothing in a training that is counted in epochs.
DEFAULT_STEPS = tuple(get_cfg().SOLVER.STEPS)


@contextmanager
def any_number_of_epochs(cfg: CfgNode) -> Iterator[None]:
    """Let what is merged give ``SOLVER.EPOCHS`` as 36 or 1.5; yacs takes the type of the default.

    Args:
        cfg: that is merged into.
    """
    before = cfg.SOLVER.EPOCHS
    cfg.SOLVER.EPOCHS = None
    try:
        yield
    finally:
        if cfg.SOLVER.EPOCHS is None:
            cfg.SOLVER.EPOCHS = before


def forget_steps(solver: CfgNode) -> None:
    """Clear ``STEPS``, in place, where files count in epochs: ``STEP_EPOCHS`` replace them.

    Without ``STEP_EPOCHS`` the steps that a file gives stay; those of detectron2 are of no file.

    Args:
        solver: after the files, before the command line.
    """
    if solver.EPOCHS > 0 and (solver.STEP_EPOCHS or tuple(solver.STEPS) == DEFAULT_STEPS):
        solver.STEPS = ()


def let_options_win(solver: CfgNode, recipe: CfgNode, keys: Collection[str]) -> None:
    """Make what the command line says about the schedule beat what files say, in place.

    ``MAX_ITER`` beats ``EPOCHS``, as do ``EPOCHS 0``, and ``STEPS`` beat ``STEP_EPOCHS``. Where
    only the length is given, steps that files count in epochs keep their share of it, as do those
    in iterations of a training that is now counted in epochs.

    Args:
        solver: of the configuration with the options.
        recipe: without them.
        keys: of the options, with ``SOLVER.``.

    Raises:
        ValueError: the options say the same in two units.
    """
    given = {key for key in (*_LENGTH, *_STEPS) if f"SOLVER.{key}" in keys}
    _require_one_unit(solver, given)
    if "STEPS" in given:
        solver.STEP_EPOCHS = []
    length = given.intersection(_LENGTH)
    if length == {"MAX_ITER"}:
        solver.EPOCHS = 0
    if length and given.isdisjoint(_STEPS):
        _keep_shares(solver, recipe)


def _keep_shares(solver: CfgNode, recipe: CfgNode) -> None:
    if solver.EPOCHS > 0:
        solver.STEP_EPOCHS = [share * solver.EPOCHS for share in _shares(recipe)]
    elif recipe.EPOCHS > 0 and recipe.STEP_EPOCHS:
        steps = (int(share * solver.MAX_ITER) for share in _shares(recipe))
        solver.STEPS, solver.STEP_EPOCHS = tuple(filter(None, steps)), []


def _require_one_unit(solver: CfgNode, given: Collection[str]) -> None:
    for iterations, epochs in (_LENGTH, _STEPS, (_LENGTH[0], _STEPS[1])):
        if {iterations, epochs} <= set(given) and solver[epochs]:
            raise ValueError(
                f"the command line gives SOLVER.{iterations}, in iterations, and SOLVER.{epochs}, "
                "in epochs; give the length and the steps of the training in one unit"
            )


def _shares(recipe: CfgNode) -> list[float]:
    """After which shares of a training the learning rate drops."""
    if recipe.EPOCHS > 0:
        return [step / recipe.EPOCHS for step in recipe.STEP_EPOCHS]
    return [step / recipe.MAX_ITER for step in recipe.STEPS if step < recipe.MAX_ITER]


def require_epochs(solver: CfgNode) -> None:
    """Check the type of ``SOLVER.EPOCHS``, which yacs does not.

    Raises:
        ValueError: it is no number, or negative.
    """
    epochs = solver.EPOCHS
    is_number = isinstance(epochs, (int, float)) and not isinstance(epochs, bool)
    if not is_number or not math.isfinite(epochs) or epochs < 0:
        raise ValueError(f"SOLVER.EPOCHS is {epochs!r}; give a number such as 36 or 1.5, or 0")


def learning_rate_advice(solver: CfgNode, recipe: CfgNode) -> str | None:
    """The learning rate that fits a batch size other than that of the recipe, as a sentence.

    Args:
        solver: of the configuration with the options.
        recipe: without them.

    Returns:
        None where the batch size is that of the recipe, or the learning rate was changed as well.
    """
    batch, usual = (x.IMS_PER_BATCH * x.ACCUMULATION_STEPS for x in (solver, recipe))
    if batch == usual or solver.BASE_LR != recipe.BASE_LR:
        return None
    fitting = solver.BASE_LR * math.sqrt(batch / usual)
    return (
        f"{batch} images per update instead of the {usual} of the recipe: SOLVER.BASE_LR "
        f"{fitting:.2g} would fit instead of {solver.BASE_LR:g} (the square root of the ratio: "
        "AdamW divides by the size of the gradients, of which only the noise falls)"
    )
