"""Rows of class heads and label embeddings for the categories of the configuration."""

from __future__ import annotations

import torch
from torch import Tensor

from ..modeling.postprocess import COCO_IDS
from .draft import Draft

_CLASS_HEAD = "heads.class_embed.0.bias"
_PROPOSAL_HEAD = "proposal_head.class_embed."
_AUX_HEADS = "encoder.aux_heads.class_embed."
_LABELS = "denoising.label_enc."

# Row = COCO category id in the heads of the original repositories.
_NUM_COCO_ROWS = max(COCO_IDS) + 1


def fit_class_rows(
    draft: Draft, *, num_classes: int, agnostic_proposals: bool, unknown_label: bool
) -> None:
    """Select the rows of the model's classes in every tensor that has one per class.

    91 rows become 80 by COCO category id. Any other change of the number of classes leaves these
    tensors to the initialisation of the model: that is fine-tuning on other categories.

    Args:
        draft: changed in place.
        num_classes: classes of the model (MODEL.DETR.NUM_CLASSES).
        agnostic_proposals: row 0 of the proposal head means "any object" and keeps its place.
        unknown_label: the label embedding of the model ends with a row for "no label".
    """
    if _CLASS_HEAD not in draft.tensors:
        return
    in_file = draft.tensors[_CLASS_HEAD].shape[0]
    rows = _rows(in_file, num_classes)
    names = draft.names("heads.class_embed.") + draft.names(_AUX_HEADS)
    if agnostic_proposals:
        _take_rows(draft, draft.names(_PROPOSAL_HEAD), torch.arange(num_classes))
    else:
        names += draft.names(_PROPOSAL_HEAD)
    if rows is None:
        for name in names + draft.names(_LABELS):
            draft.drop(name, f"{in_file} classes, MODEL.DETR.NUM_CLASSES is {num_classes}")
        draft.notes.append(
            f"The file has {in_file} classes, MODEL.DETR.NUM_CLASSES is {num_classes}: class heads "
            "and label embedding keep their initialisation and must be trained."
        )
        return
    if in_file != num_classes:
        draft.notes.append(
            f"Class rows: {num_classes} of {in_file} taken by COCO category id; MODEL.DETR."
            f"NUM_CLASSES {in_file} MODEL.DETR.COCO_ID_ROWS True keeps them all."
        )
    _take_rows(draft, names, rows)
    label_rows = torch.cat([rows, rows.new_tensor([in_file])]) if unknown_label else rows
    _take_rows(draft, draft.names(_LABELS), label_rows)


def _rows(in_file: int, wanted: int) -> Tensor | None:
    if in_file == wanted:
        return torch.arange(wanted)
    if in_file == _NUM_COCO_ROWS and wanted == len(COCO_IDS):
        return torch.tensor(COCO_IDS)
    return None


def _take_rows(draft: Draft, names: list[str], rows: Tensor) -> None:
    for name in names:
        tensor = draft.tensors[name]
        if int(rows.max()) < tensor.shape[0]:
            draft.tensors[name] = tensor[rows]
        else:
            draft.drop(name, f"{tensor.shape[0]} rows, the model needs row {int(rows.max())}")
