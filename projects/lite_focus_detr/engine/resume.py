"""What a resumed training takes from its checkpoint, from its configuration, and refuses."""

from __future__ import annotations

import logging
import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import yaml
from detectron2.config import CfgNode
from tabulate import tabulate
from torch import Tensor, nn

from ..config.safe_yaml import parse_yaml
from .description import saved_config
from .detector_record import RECORD, classes_of

logger = logging.getLogger(__name__)

# Where the files lie and how many processes read them changes nothing.
_WITHOUT_EFFECT = ("OUTPUT_DIR", "DATALOADER.NUM_WORKERS", "VERSION", "MODEL.WEIGHTS")

# Commands that go on with what they find in their folder, without --resume.
_GO_ON = ("sparsify", "study")


def continue_command(argv: Sequence[str]) -> str:
    """The command line that goes on with what a command line has started.

    Args:
        argv: of ``train_net.py``, of a module that ``python -m`` runs, or of ``lite-focus-detr``
            with its command.
    """
    program, *options = argv
    name = os.path.basename(program)
    if name in ("lite-focus-detr", "__main__.py"):
        start = [name] if name == "lite-focus-detr" else ["python", "-m", "lite_focus_detr"]
        start, options = [*start, *options[:1]], options[1:]
    else:
        module = _module_name(program)
        start = ["python", "-m", module] if module else ["python", program]
    if "--resume" not in options and start[-1].rpartition(".")[2] not in _GO_ON:
        options = ["--resume", *options]
    return shlex.join([*start, *options])


def _module_name(program: str) -> str | None:
    """How ``python -m`` was told to run a program; None if it was started as a file."""
    spec = sys.modules["__main__"].__spec__
    return spec.name if spec is not None and spec.origin == program else None


def parameter_names(optimizer: torch.optim.Optimizer, model: nn.Module) -> list[str]:
    """Names of the parameters of an optimiser, in the order of its state.

    Args:
        optimizer: of parameters of ``model``.
        model: without a wrapper for several processes.
    """
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return [names[id(p)] for group in optimizer.param_groups for p in group["params"]]


def load_optimizer_state(
    optimizer: torch.optim.Optimizer, state: dict[str, Any], saved: list[str], names: list[str]
) -> None:
    """Restore the state of each parameter; learning rates and the like stay as configured.

    Args:
        optimizer: as the configuration builds it.
        state: of another one, whose parameters may be in other groups.
        saved: names of its parameters, see :func:`parameter_names`.
        names: those of ``optimizer``.

    Raises:
        ValueError: a state is of a parameter of another shape.
    """
    index = {name: number for number, name in enumerate(saved)}
    restored = optimizer.state_dict()
    restored["state"] = {
        number: state["state"][index[name]]
        for number, name in enumerate(names)
        if index.get(name) in state["state"]
    }
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    for number, tensors in restored["state"].items():
        for key, tensor in tensors.items():
            # Counts of steps have no dimensions.
            if isinstance(tensor, Tensor) and tensor.dim():
                _require_shape(names[number], key, tensor, parameters[number])
    optimizer.load_state_dict(restored)


def _require_shape(name: str, key: str, tensor: Tensor, parameter: Tensor) -> None:
    if tensor.shape != parameter.shape:
        raise ValueError(
            f"the checkpoint's {key} of {name}, a state of the optimiser, has the shape "
            f"{tuple(tensor.shape)}, the parameter {tuple(parameter.shape)}: it is damaged or of "
            "another model; resume from another checkpoint, or give it as MODEL.WEIGHTS without "
            "--resume"
        )


def restart_scheduler(
    scheduler: torch.optim.lr_scheduler.LRScheduler, optimizer: torch.optim.Optimizer
) -> None:
    """Apply the schedule to the configured learning rates at the iteration that was restored."""
    scheduler.base_lrs = [group["initial_lr"] for group in optimizer.param_groups]
    for group, rate in zip(optimizer.param_groups, scheduler.get_lr(), strict=True):
        group["lr"] = rate


def changed_options(saved: str, cfg: CfgNode) -> dict[str, tuple[Any, Any]]:
    """Keys whose values differ, with the value before and the present one.

    Args:
        saved: configuration of the checkpoint, as ``cfg.dump()`` gave it.
        cfg: the present one.
    """
    before = _flatten(parse_yaml(saved, "the configuration of the checkpoint"))
    now = _flatten(yaml.safe_load(cfg.dump()))
    return {
        key: (before.get(key), now.get(key))
        for key in sorted({*before, *now})
        if before.get(key) != now.get(key) and key not in _WITHOUT_EFFECT
    }


def _flatten(node: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat = {}
    for key, value in node.items():
        if isinstance(value, Mapping) and value:
            flat.update(_flatten(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def report_changes(changes: Mapping[str, tuple[Any, Any]]) -> None:
    """Show what has changed since the checkpoint, if anything."""
    if changes:
        rows = [(key, before, now) for key, (before, now) in changes.items()]
        logger.warning(
            "These options have changed since the checkpoint and take effect from here on:\n%s",
            tabulate(rows, headers=["key", "before", "now"], disable_numparse=True),
        )


def require_resumable(
    filename: str, contents: Mapping[str, Any], model: nn.Module, cfg: CfgNode
) -> None:
    """Check that a checkpoint is of a training that this one can continue; show what has changed.

    Args:
        filename: of the checkpoint.
        contents: all of it.
        model: without a wrapper for several processes.
        cfg: complete configuration.

    Raises:
        ValueError: the model has other tensors, or the seed is another; nothing was loaded.
    """
    trainer = contents.get("trainer")
    if not isinstance(trainer, Mapping) or "_trainer" not in trainer:
        raise ValueError(
            f"{filename} has no state of a training: it cannot be resumed from; give it as "
            "MODEL.WEIGHTS without --resume"
        )
    saved = saved_config(contents)
    changes = changed_options(saved, cfg) if saved else {}
    if different := _different_tensors(contents["model"], model.state_dict()):
        keys = [
            f"{key} was {before}, is {now}"
            for key, (before, now) in changes.items()
            if key.startswith(("MODEL.", "IMPORTS"))
        ]
        raise ValueError(
            f"cannot resume from {filename}: it is of another model "
            f"({'; '.join(keys) or 'tensors differ: ' + ', '.join(different[:3])}); set it back, "
            "or train into another OUTPUT_DIR"
        )
    _require_same_classes(filename, contents.get(RECORD), cfg)
    seed = trainer.get("stream", {}).get("seed")
    if seed is not None and 0 <= cfg.SEED != seed:
        raise ValueError(
            f"cannot resume from {filename} with SEED {cfg.SEED}: the order of the data and the "
            f"randomness of its training are those of seed {seed}; set SEED {seed}"
        )
    report_changes(changes)


def _require_same_classes(filename: str, record: object, cfg: CfgNode) -> None:
    before = record.get("class_names") if isinstance(record, Mapping) else None
    now = classes_of(cfg).names if before else None
    if before is None or now is None or list(before) == list(now):
        return
    change = f"{', '.join(map(str, before))} before, are {', '.join(now)} now"
    if sorted(before) == sorted(now):
        raise ValueError(
            f"cannot resume from {filename}: the classes of DATASETS.TRAIN were {change}; put the "
            "categories of the annotation file back in order, or begin anew with MODEL.WEIGHTS"
        )
    logger.warning("The classes of DATASETS.TRAIN were %s: they are taken for renamed", change)


def _different_tensors(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> list[str]:
    """Names of tensors that only one of them has, or that have another shape."""

    def shape(tensors: Mapping[str, Tensor], name: str) -> torch.Size | None:
        return tensors[name].shape if name in tensors else None

    names = sorted({*found, *expected})
    return [name for name in names if shape(found, name) != shape(expected, name)]
