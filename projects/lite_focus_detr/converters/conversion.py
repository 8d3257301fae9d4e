"""From the weights of a published file to the state dict of a configured model."""

from __future__ import annotations

import argparse
import functools
import logging
from collections.abc import Collection, Mapping
from typing import NamedTuple

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from torch import Tensor

from .checkpoint_format import CheckpointFormat, has_keys
from .class_rows import CLASS_HEAD, ClassNames, coco_names, fit_class_rows
from .formats import PUBLISHED_FORMATS
from .head_layout import share_heads, split_encoder_heads
from .renamed_weights import RenamedWeights
from .report import ConversionReport

logger = logging.getLogger(__name__)

NATIVE_FORMAT = "lite_focus_detr"
_NATIVE = CheckpointFormat(
    name=NATIVE_FORMAT,
    recognises=has_keys("neck.level_embed", "neck.input_proj.0.0.weight"),
    rename=str,
)
FORMATS = (_NATIVE, *PUBLISHED_FORMATS)
BACKBONE_FORMATS: frozenset[str] = frozenset(f.name for f in FORMATS if f.backbone_only)

_CONTAINERS = ("model", "ema_model", "state_dict")
# Modules that had other names before 0.2.
_RENAMED = ("tokens.level_embed", "tokens.input_proj.", "queries.")
# Buffers that a model computes itself and that releases store in different layouts.
_CONSTANTS = ("relative_position_index", "attn_mask")


class Conversion(NamedTuple):
    """Result of :func:`convert_state_dict`."""

    state_dict: dict[str, Tensor]
    report: ConversionReport


def unwrap(checkpoint: Mapping[str, object]) -> dict[str, Tensor]:
    """Find the weights in the contents of a checkpoint file.

    They may lie under ``model``, ``ema_model`` or ``state_dict`` (the first of these), be NumPy
    arrays, and have the ``module.`` prefix of distributed training. Entries that are no tensors
    are left out and logged.

    Raises:
        ValueError: there are no weights.
    """
    contents: Mapping[str, object] = checkpoint
    for name in _CONTAINERS:
        inner = checkpoint.get(name)
        if isinstance(inner, Mapping):
            contents = inner
            break
    tensors = {
        str(key).removeprefix("module."): torch.as_tensor(value)
        for key, value in contents.items()
        if isinstance(value, (Tensor, np.ndarray, np.generic))
    }
    if not tensors:
        raise ValueError(
            f"The checkpoint holds no weights, only {', '.join(map(str, contents)) or 'nothing'}; "
            f"expected tensors, or a dictionary of tensors under {' or '.join(_CONTAINERS)}"
        )
    if len(tensors) < len(contents):
        others = [str(k) for k in contents if str(k).removeprefix("module.") not in tensors]
        logger.warning("Not tensors, left out of the weights: %s", ", ".join(others))
    return tensors


def training_options(checkpoint: Mapping[str, object]) -> dict[str, object]:
    """The options that original releases keep under ``args``; none where there are none."""
    options = checkpoint.get("args", {})
    if isinstance(options, argparse.Namespace):
        return vars(options)
    return dict(options) if isinstance(options, Mapping) else {}


def detect_format(state_dict: Collection[str]) -> str:
    """Name of the format of a state dict (or of its keys).

    Raises:
        ValueError: no known format, or names that this project no longer uses.
    """
    return _find_format(state_dict).name


def published_class_names(state_dict: Mapping[str, Tensor]) -> tuple[str, ...] | None:
    """Names of the classes of published weights, where their number says that they are COCO's.

    Args:
        state_dict: see :func:`unwrap`.

    Returns:
        80 names; None for other weights, those of this project included.

    Raises:
        ValueError: as :func:`detect_format`.
    """
    source = _find_format(state_dict)
    if source is _NATIVE or source.backbone_only:
        return None
    heads = (x for key, x in state_dict.items() if source.rename(key) == CLASS_HEAD)
    head = next(heads, None)
    return None if head is None else coco_names(head.shape[0])


def _find_format(keys: Collection[str]) -> CheckpointFormat:
    if any(key.startswith(_RENAMED) for key in keys):
        raise ValueError(
            "the weights were written by lite-focus-detr before 0.2, whose names changed; train "
            "again or convert the published file"
        )
    for checkpoint_format in FORMATS:
        if checkpoint_format.recognises(keys):
            return checkpoint_format
    examples = ", ".join(list(keys)[:3])
    raise ValueError(
        f"Weights of an unknown model ({len(keys)} tensors: {examples}, ...); known are "
        f"{', '.join(f.name for f in FORMATS)}. Give MODEL.WEIGHTS a file of one of these"
    )


def convert_state_dict(
    state_dict: Mapping[str, Tensor],
    cfg: CfgNode,
    expected: Collection[str] | None = None,
    options: Mapping[str, object] | None = None,
    class_names: ClassNames | None = None,
) -> Conversion:
    """Rename, de-duplicate and fit the weights of a published file to a configuration.

    Args:
        state_dict: weights as :func:`unwrap` gives them; not changed.
        cfg: configuration of the model that shall take them.
        expected: names of that model's state dict; None builds the model to learn them.
        options: see :func:`training_options`; they decide nothing, only notes.
        class_names: see :func:`fit_class_rows`.

    Returns:
        Tensors under names of the model (a subset of ``expected``; shapes that follow from other
        configuration keys, such as NUM_QUERIES, are not compared), and the account of each tensor.

    Raises:
        ValueError: no known format, aliases that differ, or heads that the configuration shares
            and the file does not.
    """
    source = _find_format(state_dict)
    weights = RenamedWeights.from_state_dict(state_dict, source.rename)
    source.complete(weights)
    detr = cfg.MODEL.DETR
    split_encoder_heads(weights, source.encoder_heads)
    share_heads(weights, share=detr.SHARE_HEADS, num_layers=detr.DECODER.NUM_LAYERS)
    fit_class_rows(
        weights,
        num_classes=detr.NUM_CLASSES,
        agnostic_proposals=detr.CLASS_AGNOSTIC_PROPOSALS,
        unknown_label=detr.DENOISING.TYPE == "plain",
        names=class_names,
    )
    names = _model_keys(cfg) if expected is None else expected
    unplaced = _drop_what_the_model_lacks(weights, names)
    missing = [n for n in names if n not in weights.tensors and not n.endswith(_CONSTANTS)]
    settings = source.settings(state_dict, options or {})
    notes = weights.notes + source.notes(state_dict, options or {}, cfg)
    hidden = [key for key in source.hidden if key not in settings]
    if hidden:
        notes.append(
            f"Cannot be known from this file, no tensor depends on it: {', '.join(hidden)}."
        )
    used = weights.used()
    # A source of several names is used as long as one of them is.
    unused = {key: reason for key, reason in weights.unused.items() if key not in used}
    differences = weights.warnings + _differences(settings, cfg)
    report = ConversionReport(source.name, used, unused, missing, unplaced, differences, notes)
    return Conversion(weights.tensors, report)


def _drop_what_the_model_lacks(weights: RenamedWeights, names: Collection[str]) -> list[str]:
    """Leave out what the model has no name for; the names of what was trained."""
    unplaced = []
    for name in list(weights.tensors):
        plain_name = name.replace(".query_proj.", ".attention_weights.")
        if name.endswith(_CONSTANTS):
            weights.drop(name, "constant that the model computes")
        elif name in names:
            continue
        elif plain_name != name and plain_name in weights.tensors:
            weights.drop(name, "plain attention was trained without it")
        else:
            weights.drop(name, f"the configured model has no {name}")
            unplaced.append(name)
    return unplaced


def _model_keys(cfg: CfgNode) -> list[str]:
    cpu_cfg = cfg.clone()
    cpu_cfg.defrost()
    cpu_cfg.MODEL.DEVICE = "cpu"
    with torch.random.fork_rng(devices=[]):
        return list(build_model(cpu_cfg).state_dict())


def _differences(settings: Mapping[str, object], cfg: CfgNode) -> list[str]:
    differences = []
    for key, trained in settings.items():
        configured = functools.reduce(getattr, key.split("."), cfg)
        possible = trained if isinstance(trained, tuple) else (trained,)
        if configured not in possible:
            remedy = " or ".join(_assignment(key, value) for value in possible)
            differences.append(
                f"The weights were not trained with {_assignment(key, configured)}: set {remedy} "
                "to get the published results."
            )
    return differences


def _assignment(key: str, value: object) -> str:
    if isinstance(value, Mapping):
        return " ".join(_assignment(f"{key}.{name}", entry) for name, entry in value.items())
    return f"{key} {value}"
