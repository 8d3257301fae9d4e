"""Refusal of checkpoint files that do not fit the model that shall take them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from detectron2.config import CfgNode
from tabulate import tabulate
from torch import Tensor, nn

from ..converters import BACKBONE_FORMATS
from ..modeling.loaded_weights import examples, is_finite, training_only_prefixes
from .checkpoint_io import named_tensors

BACKBONE = "backbone."


class FileWeights(NamedTuple):
    """Tensors of a file under the model's names, and what the file is."""

    filename: str
    tensors: dict[str, Tensor]
    format: str
    other_classes: int | None = None
    """Rows of class heads that were left out, being for another number of classes."""
    unplaced: Sequence[str] = ()
    """Trained tensors that the model has no place for."""


def require_match(weights: FileWeights, model: nn.Module, cfg: CfgNode) -> None:
    """Check that a file fits most of a model, or of its backbone if it holds only that.

    Raises:
        ValueError: less than half of the tensors or of the weights fit; the message has a table.
    """
    expected = model.state_dict()
    backbone = {name: x for name, x in expected.items() if name.startswith(BACKBONE)}
    rest = {name: x for name, x in expected.items() if name not in backbone}
    if weights.format in BACKBONE_FORMATS:
        parts = {"the backbone of ": backbone}
    else:
        # A backbone is half of a small detector and fits many others.
        parts = {"": expected, "the transformer of ": rest}
    for part, tensors in parts.items():
        fitting = [x for name, x in tensors.items() if _fits(x, weights.tensors.get(name))]
        total = sum(x.numel() for x in tensors.values())
        share = sum(x.numel() for x in fitting) / max(total, 1)
        if 2 * len(fitting) >= len(tensors) and share >= 0.5:
            continue
        raise ValueError(
            f"{weights.filename} (format {weights.format}) fits only {len(fitting)} of "
            f"{len(tensors)} tensors and {share:.0%} of the weights of {part}this "
            f"{cfg.MODEL.META_ARCHITECTURE}: give the --config-file that it was trained with, or "
            f"another MODEL.WEIGHTS\n{_match_table(expected, weights.tensors)}"
        )


def require_all(weights: FileWeights, model: nn.Module, cfg: CfgNode) -> None:
    """Check that a file is of this detector: inference uses nothing random, and nothing is lost.

    Parts that only a training uses may be missing from the file as from the model.

    Raises:
        ValueError: the file holds only a backbone, leaves parameters at their initialisation, or
            has trained tensors that the model has no place for.
    """
    if weights.format in BACKBONE_FORMATS:
        raise ValueError(
            f"{weights.filename} holds only a backbone (format {weights.format}), the rest of the "
            "detector would be random: give MODEL.WEIGHTS the checkpoint of a trained detector"
        )
    training_only = training_only_prefixes(model)
    unfilled = [
        name
        for name, parameter in model.named_parameters()
        if not name.startswith(training_only) and not _fits(parameter, weights.tensors.get(name))
    ]
    if unfilled:
        raise ValueError(_explain_unfilled(weights, unfilled, cfg))
    unknown = [name for name in weights.unplaced if not name.startswith(training_only)]
    if unknown:
        raise ValueError(
            f"{weights.filename} is of another detector: this {cfg.MODEL.META_ARCHITECTURE} has "
            f"no place for {len(unknown)} of its tensors ({examples(unknown)}); "
            "give the --config-file it was trained with"
        )


def require_finite(weights: FileWeights) -> None:
    """Check that all weights of a file are finite.

    Raises:
        ValueError: some are not; the message names them.
    """
    _require_finite(weights.filename, weights.tensors.items())


def require_finite_contents(filename: str, contents: Mapping[str, Any]) -> None:
    """Check that all tensors of a checkpoint are finite, those of the optimiser included.

    Raises:
        ValueError: some are not; the message names them.
    """
    _require_finite(filename, named_tensors(contents))


def _require_finite(filename: str, tensors: Iterable[tuple[str, Tensor]]) -> None:
    broken = [name for name, tensor in tensors if not is_finite(tensor)]
    if broken:
        raise ValueError(
            f"{filename} has NaN or infinite values in {len(broken)} tensors: "
            f"{', '.join(broken[:5])}; use an earlier checkpoint"
        )


def same_shapes(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> bool:
    """Whether two state dicts have the same names and shapes."""
    return first.keys() == second.keys() and all(_fits(x, second[k]) for k, x in first.items())


def _fits(tensor: Tensor, given: Tensor | None) -> bool:
    return given is not None and given.shape == tensor.shape


def _explain_unfilled(weights: FileWeights, unfilled: Sequence[str], cfg: CfgNode) -> str:
    if weights.other_classes and all("class_embed" in name for name in unfilled):
        return (
            f"{weights.filename}: the file has {weights.other_classes} classes, "
            f"MODEL.DETR.NUM_CLASSES is {cfg.MODEL.DETR.NUM_CLASSES} and the class heads would be "
            f"random; set MODEL.DETR.NUM_CLASSES {weights.other_classes}"
        )
    return (
        f"{weights.filename} (format {weights.format}) leaves {len(unfilled)} parameters of this "
        f"model random ({examples(unfilled)}): give the --config-file it was trained with"
    )


def _match_table(expected: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> str:
    """Per part of the model: tensors that fit, have another shape, or are missing."""
    counts: dict[str, list[int]] = {}
    mismatched = []
    for name, tensor in expected.items():
        row = counts.setdefault(".".join(name.split(".")[:2]), [0, 0, 0])
        if _fits(tensor, given.get(name)):
            row[0] += 1
        elif name in given:
            row[1] += 1
            mismatched.append((name, tuple(given[name].shape), tuple(tensor.shape)))
        else:
            row[2] += 1
    parts = tabulate(
        [(part, *row) for part, row in counts.items()],
        headers=("part of the model", "fits", "other shape", "not in the file"),
    )
    shapes = tabulate(mismatched, headers=("tensor", "shape in the file", "shape in the model"))
    return f"{parts}\n\n{shapes}" if mismatched else str(parts)
