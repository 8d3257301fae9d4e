"""The report of a training that has stopped because its numbers are no longer finite."""

from __future__ import annotations

import json
import logging
import math
import os
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ..modeling.loaded_weights import is_finite
from .checkpoint_io import write_atomically

logger = logging.getLogger(__name__)

_NUM_PARAMETERS = 20


class NonFiniteError(FloatingPointError):
    """A training cannot go on: a loss, a gradient, a weight or a state is not finite."""


def broken_state(model: nn.Module, optimizer: torch.optim.Optimizer) -> list[str]:
    """Names of the weights, buffers and states of the optimiser that are not finite.

    Args:
        model: that is trained.
        optimizer: of its parameters.
    """
    broken = [name for name, tensor in model.state_dict().items() if not is_finite(tensor)]
    for name, parameter in model.named_parameters():
        state = _tensors(optimizer.state.get(parameter, {}))
        broken += [f"{key} of {name}" for key, tensor in state if not is_finite(tensor)]
    return broken


def write_report(
    folder: str,
    iteration: int,
    reason: str,
    processes: list[dict[str, Any]],
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
) -> str:
    """Write ``nonfinite_<iteration>.json``.

    Args:
        folder: of the file.
        iteration: that has stopped.
        reason: what is not finite.
        processes: of each its rank, its losses and its images.
        model: with the gradients of the iteration; its worst parameters are described by their
            norms, those that are not finite first.
        optimizer: likewise.

    Returns:
        the path of the file; empty if it could not be written, which is logged.
    """
    rows = [_norms(name, p, optimizer) for name, p in model.named_parameters()]
    rows.sort(key=_badness, reverse=True)
    report = {
        "iteration": iteration,
        "reason": reason,
        "processes": processes,
        "parameters": rows[:_NUM_PARAMETERS],
    }
    path = os.path.join(folder, f"nonfinite_{iteration}.json")
    text = json.dumps(_as_json(report), indent=1, allow_nan=False)
    try:
        write_atomically(path, lambda file: file.write(text.encode()))
    except OSError as error:
        logger.error("%s", error)
        return ""
    return path


def _tensors(state: Mapping[str, Any]) -> Iterator[tuple[str, Tensor]]:
    return ((key, value) for key, value in state.items() if isinstance(value, Tensor))


def _norms(name: str, parameter: nn.Parameter, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    row: dict[str, Any] = {"name": name, "weight": parameter.detach().norm().item()}
    if parameter.grad is not None:
        row["gradient"] = parameter.grad.norm().item()
    state = _tensors(optimizer.state.get(parameter, {}))
    return row | {key: tensor.float().norm().item() for key, tensor in state if tensor.dim()}


def _badness(row: dict[str, Any]) -> tuple[int, float]:
    """Order of the parameters: the number of norms that are not finite, then the gradient."""
    values = [value for value in row.values() if isinstance(value, float)]
    gradient = row.get("gradient", 0.0)
    broken = sum(not math.isfinite(value) for value in values)
    return broken, gradient if math.isfinite(gradient) else math.inf


def _as_json(value: Any) -> Any:
    """The same with names in place of numbers that JSON does not have."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, dict):
        return {key: _as_json(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_as_json(item) for item in value]
    return value
