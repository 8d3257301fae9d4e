"""Rows of class heads and label embeddings for the categories of the configuration."""

from __future__ import annotations

import torch
from detectron2.data.datasets.builtin_meta import COCO_CATEGORIES
from torch import Tensor

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


def fit_class_rows(
    weights: RenamedWeights, *, num_classes: int, agnostic_proposals: bool, unknown_label: bool
) -> None:
    """Select the rows of the model's classes in every tensor that has one per class.

    These are the class heads, wherever they belong, and the label embedding. 91 rows become 80 by
    COCO category id. Any other change of the number of classes leaves these tensors to the
    initialisation of the model: that is fine-tuning on other categories.

    Args:
        weights: changed in place.
        num_classes: classes of the model (MODEL.DETR.NUM_CLASSES).
        agnostic_proposals: row 0 of the proposal head means "any object" and keeps its place.
        unknown_label: the label embedding of the model ends with a row for "no label".
    """
    if CLASS_HEAD not in weights.tensors:
        return
    in_file = weights.tensors[CLASS_HEAD].shape[0]
    rows = _rows(in_file, num_classes)
    names = [name for name in weights.tensors if "class_embed" in name.split(".")]
    if agnostic_proposals:
        agnostic = [name for name in names if name.startswith(_PROPOSAL_HEAD)]
        names = [name for name in names if name not in agnostic]
        _take_rows(weights, agnostic, torch.arange(num_classes))
    labels = weights.names(_LABELS)
    if rows is None:
        for name in names + labels:
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
    _take_rows(weights, names, rows)
    label_rows = torch.cat([rows, rows.new_tensor([in_file])]) if unknown_label else rows
    _take_rows(weights, labels, label_rows)


def _rows(in_file: int, num_classes: int) -> Tensor | None:
    if in_file == num_classes:
        return torch.arange(num_classes)
    if in_file == _NUM_COCO_ROWS and num_classes == len(COCO_IDS):
        return torch.tensor(COCO_IDS)
    return None


def _take_rows(weights: RenamedWeights, names: list[str], rows: Tensor) -> None:
    for name in names:
        tensor = weights.tensors[name]
        if int(rows.max()) < tensor.shape[0]:
            weights.tensors[name] = tensor[rows]
        else:
            weights.drop(name, f"{tensor.shape[0]} rows, the model needs row {int(rows.max())}")
