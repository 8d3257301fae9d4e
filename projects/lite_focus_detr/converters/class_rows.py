"""Rows of class heads and label embeddings for the categories of the configuration."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from detectron2.data.datasets.builtin_meta import COCO_CATEGORIES
from torch import Tensor

from ..modeling.loaded_weights import examples
from ..modeling.postprocess import COCO_IDS
from .renamed_weights import RenamedWeights

#: Has a row for each class in every detector.
CLASS_HEAD = "heads.class_embed.0.bias"
_PROPOSAL_HEAD = "proposal_head."
_LABELS = "denoising.label_enc."

# Row = COCO category id in the heads of the original repositories.
_NUM_COCO_ROWS = max(COCO_IDS) + 1
#: Names of the 80 classes of COCO, in the order of detectron2.
COCO_NAMES: tuple[str, ...] = tuple(x["name"] for x in COCO_CATEGORIES if x["isthing"])


def coco_names(num_rows: int) -> tuple[str, ...] | None:
    """Names of the classes of a detector of COCO, or None if its class heads are of another.

    Args:
        num_rows: of its class heads: 80, or 91 in the original repositories.
    """
    return COCO_NAMES if num_rows in (len(COCO_IDS), _NUM_COCO_ROWS) else None


@dataclass(frozen=True)
class ClassNames:
    """What the classes of a file are called, and those of the model that it starts.

    Attributes:
        in_file: one for each class.
        in_model: likewise.
        initial: tensors of the model, whose rows stay where the file has no class of the name.
    """

    in_file: Sequence[str]
    in_model: Sequence[str]
    initial: Mapping[str, Tensor]

    def differ(self) -> bool:
        """Whether the classes of the two are others, or in another order."""
        return list(map(_key, self.in_file)) != list(map(_key, self.in_model))

    def pairs(self) -> list[tuple[int, int]]:
        """Class of the model and class of the file for every name that both have once."""
        places = _places(self.in_file)
        both = _places(self.in_model).items()
        return [(place, places[name]) for name, place in both if name in places]


def fit_class_rows(
    weights: RenamedWeights,
    *,
    num_classes: int,
    agnostic_proposals: bool,
    unknown_label: bool,
    names: ClassNames | None = None,
) -> None:
    """Select the rows of the model's classes in every tensor that has one per class.

    These are the class heads, wherever they belong, and the label embedding. Where the names of
    the classes are known, a class gets the rows that the file has for its name, whatever their
    place, and the initialisation of the model if there is none. Else 91 rows become 80 by COCO
    category id, and any other change of the number of classes leaves these tensors to the
    initialisation: that is fine-tuning on other categories.

    Args:
        weights: changed in place.
        num_classes: classes of the model (MODEL.DETR.NUM_CLASSES).
        agnostic_proposals: row 0 of the proposal head means "any object" and keeps its place.
        unknown_label: the label embedding of the model ends with a row for "no label".
        names: of the classes, where both are known.
    """
    if CLASS_HEAD not in weights.tensors:
        return
    in_file = weights.tensors[CLASS_HEAD].shape[0]
    heads = [name for name in weights.tensors if "class_embed" in name.split(".")]
    if agnostic_proposals:
        agnostic = [name for name in heads if name.startswith(_PROPOSAL_HEAD)]
        heads = [name for name in heads if name not in agnostic]
        _take_rows(weights, agnostic, torch.arange(num_classes))
    pairs = _match_rows(names, in_file, num_classes)
    if names is None or pairs is None:
        _fit_by_number(weights, heads, num_classes, unknown_label)
        return
    _tell_matches(weights, names)
    _place_rows(weights, heads, pairs, names.initial)
    if pairs and unknown_label:
        pairs = [*pairs, (num_classes, in_file)]
    _place_rows(weights, weights.names(_LABELS), pairs, names.initial)


def _fit_by_number(
    weights: RenamedWeights, heads: list[str], num_classes: int, unknown_label: bool
) -> None:
    in_file = weights.tensors[CLASS_HEAD].shape[0]
    rows = _rows(in_file, num_classes)
    labels = weights.names(_LABELS)
    if rows is None:
        for name in heads + labels:
            weights.drop(name, f"{in_file} classes, MODEL.DETR.NUM_CLASSES is {num_classes}")
        weights.notes.append(
            f"The file has {in_file} classes, MODEL.DETR.NUM_CLASSES is {num_classes}: class heads "
            "and label embedding keep their initialisation and must be trained."
        )
        return
    if in_file != num_classes:
        weights.notes.append(
            f"Class rows: {num_classes} of {in_file} taken by COCO category id; MODEL.DETR."
            f"NUM_CLASSES {in_file} MODEL.DETR.COCO_ID_ROWS True keeps them all."
        )
    _take_rows(weights, heads, rows)
    label_rows = torch.cat([rows, rows.new_tensor([in_file])]) if unknown_label else rows
    _take_rows(weights, labels, label_rows)


def _rows(in_file: int, num_classes: int) -> Tensor | None:
    if in_file == num_classes:
        return torch.arange(num_classes)
    if in_file == _NUM_COCO_ROWS and num_classes == len(COCO_IDS):
        return torch.tensor(COCO_IDS)
    return None


def _key(name: str) -> str:
    return name.strip().casefold()


def _places(names: Sequence[str]) -> dict[str, int]:
    """Place of each name that is there once."""
    counts = Counter(map(_key, names))
    return {_key(name): place for place, name in enumerate(names) if counts[_key(name)] == 1}


def _match_rows(
    names: ClassNames | None, in_file: int, num_classes: int
) -> list[tuple[int, int]] | None:
    """Row of the model and row of the file for the classes that both have; None where names say
    nothing: they are unknown or the same, or it is not known which rows are theirs."""
    if names is None or not names.differ():
        return None
    to = _rows_of_classes(names.in_model, num_classes)
    source = _rows_of_classes(names.in_file, in_file)
    if to is None or source is None:
        return None
    return [(to[place], source[other]) for place, other in names.pairs()]


def _rows_of_classes(names: Sequence[str], num_rows: int) -> Sequence[int] | None:
    """Row of each class; None where there are as many rows as no known layout has."""
    if len(names) == num_rows:
        return range(num_rows)
    return COCO_IDS if (len(names), num_rows) == (len(COCO_IDS), _NUM_COCO_ROWS) else None


def _tell_matches(weights: RenamedWeights, names: ClassNames) -> None:
    known = {place for place, _ in names.pairs()}
    found = [name for place, name in enumerate(names.in_model) if place in known]
    new = [name for place, name in enumerate(names.in_model) if place not in known]
    parts = [f"{examples(found)} from the file ({len(found)} of {len(names.in_model)})"] * bool(
        found
    )
    parts += [f"{examples(new)} start anew and must be trained"] * bool(new)
    line = f"Rows of classes by name: {'; '.join(parts)}."
    if len(names.in_file) == len(names.in_model):
        before = examples(names.in_file)
        weights.warnings.append(f"The file is of as many classes, but of {before}. {line}")
    else:
        weights.notes.append(line)


def _place_rows(
    weights: RenamedWeights,
    tensors: Sequence[str],
    rows: Sequence[tuple[int, int]],
    initial: Mapping[str, Tensor],
) -> None:
    """Fill rows of the model's tensors with rows of the file's; without any, drop these."""
    for name in tensors:
        tensor, start = weights.tensors[name], initial.get(name)
        fitting = start is not None and start.shape[1:] == tensor.shape[1:]
        pairs = [x for x in rows if start is not None and x[0] < len(start) and x[1] < len(tensor)]
        if start is None or not fitting or not pairs:
            weights.drop(name, "no class of the model has the name of one of the file")
            continue
        filled = start.detach().to("cpu", copy=True)
        to, source = (torch.tensor(column) for column in zip(*pairs, strict=True))
        filled[to] = tensor[source].to(filled.dtype)
        weights.tensors[name] = filled


def _take_rows(weights: RenamedWeights, names: list[str], rows: Tensor) -> None:
    for name in names:
        tensor = weights.tensors[name]
        if int(rows.max()) < tensor.shape[0]:
            weights.tensors[name] = tensor[rows]
        else:
            weights.drop(name, f"{tensor.shape[0]} rows, the model needs row {int(rows.max())}")
