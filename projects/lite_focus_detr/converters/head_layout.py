"""Prediction heads: which layer has its own, and which belongs to the encoder output."""

from __future__ import annotations

import re

from .renamed_weights import RenamedWeights

_HEAD = re.compile(r"heads\.(?P<kind>\w+)\.(?P<layer>\d+)\.(?P<rest>.+)")
_DECODER_LAYER = re.compile(r"decoder\.layers\.(\d+)\.")


def split_encoder_heads(weights: RenamedWeights, encoder_heads: str) -> None:
    """Move the heads that follow those of the decoder layers to the encoder.

    Two-stage models of the original Deformable DETR and of detrex keep the head of the encoder
    output there; some keep those of the encoder layers behind it.

    Args:
        weights: changed in place.
        encoder_heads: our name of the heads of the encoder layers; empty if the format has none.
    """
    layers = [int(match[1]) for match in map(_DECODER_LAYER.match, weights.tensors) if match]
    num_layers = 1 + max(layers, default=-1)
    for name in weights.names("heads."):
        match = _HEAD.fullmatch(name)
        if match is None or int(match["layer"]) < num_layers:
            continue
        layer = int(match["layer"]) - num_layers - 1
        if layer < 0:
            weights.merge(name, f"proposal_head.{match['kind']}.{match['rest']}")
        elif encoder_heads:
            weights.merge(name, f"{encoder_heads}.{match['kind']}.{layer}.{match['rest']}")


def share_heads(weights: RenamedWeights, *, share: bool, num_layers: int) -> None:
    """Reduce equal heads to one, or give every decoder layer a copy of the only one.

    Args:
        weights: changed in place.
        share: the model has one head for all layers (MODEL.DETR.SHARE_HEADS).
        num_layers: decoder layers of the model.

    Raises:
        ValueError: ``share``, but the heads of the file differ.
    """
    if share:
        for name in weights.names("heads."):
            _merge_into_first(weights, name)
        return
    for kind in ("heads.class_embed.", "heads.bbox_embed."):
        if weights.names(f"{kind}1."):
            continue
        for name in weights.names(f"{kind}0."):
            for layer in range(1, num_layers):
                weights.copy(name, name.replace(".0.", f".{layer}.", 1))


def _merge_into_first(weights: RenamedWeights, name: str) -> None:
    match = _HEAD.fullmatch(name)
    if match is None or match["layer"] == "0":
        return
    first = f"heads.{match['kind']}.0.{match['rest']}"
    if first in weights.tensors:
        remedy = "its decoder layers have heads of their own: set MODEL.DETR.SHARE_HEADS False"
        weights.merge(name, first, remedy)
