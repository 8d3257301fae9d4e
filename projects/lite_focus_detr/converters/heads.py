"""Prediction heads: which layer has its own, and which belongs to the encoder output."""

from __future__ import annotations

import re

import torch

from .draft import Draft

_HEAD = re.compile(r"heads\.(?P<kind>\w+)\.(?P<layer>\d+)\.(?P<rest>.+)")
_DECODER_LAYER = re.compile(r"decoder\.layers\.(\d+)\.")


def split_proposal_head(draft: Draft) -> None:
    """Move the heads behind the last decoder layer's to the encoder.

    Two-stage models of the original Deformable DETR and of detrex keep the head of the encoder
    output there, Sparse DETR then those of the encoder layers.
    """
    layers = [int(match[1]) for match in map(_DECODER_LAYER.match, draft.tensors) if match]
    num_layers = 1 + max(layers, default=-1)
    for name in draft.names("heads."):
        match = _HEAD.fullmatch(name)
        if match and int(match["layer"]) == num_layers:
            draft.move(name, f"proposal_head.{match['kind']}.{match['rest']}")
        elif match and int(match["layer"]) > num_layers:
            layer = int(match["layer"]) - num_layers - 1
            _move_or_merge(
                draft, name, f"encoder.aux_heads.{match['kind']}.{layer}.{match['rest']}"
            )


def _move_or_merge(draft: Draft, name: str, new_name: str) -> None:
    if new_name not in draft.tensors:
        draft.move(name, new_name)
        return
    key, first_key = draft.sources[name], draft.sources[new_name]
    if not torch.equal(draft.tensors[name], draft.tensors[new_name]):
        raise ValueError(
            f"{first_key} and {key} are two names of one tensor ({new_name}), but their values "
            "differ in this file; it is damaged or of another model, download it again"
        )
    draft.drop(name, f"alias of {first_key}")


def share_heads(draft: Draft, *, share: bool, num_layers: int) -> None:
    """Reduce equal heads to one, or give every decoder layer a copy of the only one.

    Args:
        draft: changed in place.
        share: the model has one head for all layers (MODEL.DETR.SHARE_HEADS).
        num_layers: decoder layers of the model.

    Raises:
        ValueError: ``share``, but the heads of the file differ.
    """
    if share:
        for name in draft.names("heads."):
            _merge_into_first(draft, name)
    elif not draft.names("heads.class_embed.1."):
        for name in draft.names("heads."):
            for layer in range(1, num_layers):
                draft.copy(name, name.replace(".0.", f".{layer}.", 1))


def _merge_into_first(draft: Draft, name: str) -> None:
    match = _HEAD.fullmatch(name)
    if match is None or match["layer"] == "0":
        return
    first = f"heads.{match['kind']}.0.{match['rest']}"
    if first not in draft.tensors:
        return
    key, first_key = draft.sources[name], draft.sources[first]
    if not torch.equal(draft.tensors[name], draft.tensors[first]):
        raise ValueError(
            f"MODEL.DETR.SHARE_HEADS is True, but {first_key} and {key} of this file differ: its "
            "decoder layers have heads of their own; set MODEL.DETR.SHARE_HEADS False"
        )
    draft.drop(name, f"alias of {first_key}")
