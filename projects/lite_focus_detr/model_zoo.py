"""The configurations of this project by name, from a checkout as from an installed package."""

from __future__ import annotations

from pathlib import Path

import torch
from detectron2.config import CfgNode, get_cfg
from detectron2.modeling import build_model
from torch import nn

from .config import add_lite_focus_detr_config

_PACKAGE = Path(__file__).parent
# Installed as package data; in a checkout beside the folder of the package.
_CONFIG_ROOTS = (_PACKAGE / "configs", _PACKAGE.parents[1] / "configs")


def get_config_file(name: str) -> str:
    """Path of a configuration file.

    Args:
        name: path below ``configs/``, such as ``deformable_detr/dino_r50_12ep``, or only its last
            part where that is unique; with or without ``.yaml``.

    Raises:
        ValueError: there is no such file, or more than one.
    """
    root = next((root for root in _CONFIG_ROOTS if root.is_dir()), None)
    if root is None:
        raise ValueError(f"no folder 'configs' in {_PACKAGE} or in {_PACKAGE.parents[1]}")
    leaf = name.removesuffix(".yaml") + ".yaml"
    found = [root / leaf] if (root / leaf).is_file() else sorted(root.rglob(leaf.lstrip("/")))
    if len(found) == 1:
        return str(found[0])
    available = found or [path for path in root.rglob("*.yaml") if "_base_" not in path.parts]
    names = ", ".join(
        sorted(path.relative_to(root).with_suffix("").as_posix() for path in available)
    )
    what = "is ambiguous" if found else "is not in the model zoo"
    raise ValueError(f"configuration {name} {what}; choose from: {names}")


def find_config_file(path_or_name: str) -> str:
    """The argument itself if it is the path of a file, else see :func:`get_config_file`."""
    return path_or_name if Path(path_or_name).is_file() else get_config_file(path_or_name)


def get_config(name: str, trained: bool = False) -> CfgNode:
    """Configuration of a model, ready to be changed.

    Args:
        name: see :func:`get_config_file`.
        trained: set ``MODEL.WEIGHTS`` to the trained weights; by default the configuration's own
            initialisation stays.

    Raises:
        ValueError: there is no such configuration.
        RuntimeError: there are no trained weights for it.
    """
    config_file = get_config_file(name)
    if trained:
        raise RuntimeError(
            f"no trained weights are published for {name}; set MODEL.WEIGHTS to a checkpoint, for "
            f"example to the file of the original authors that {config_file} names"
        )
    cfg = get_cfg()
    add_lite_focus_detr_config(cfg)
    cfg.merge_from_file(config_file)
    return cfg


def get(name: str, trained: bool = False, device: str | None = None) -> nn.Module:
    """Build a model, in training mode; its weights are random unless ``trained``.

    Args:
        name: see :func:`get_config_file`.
        trained: see :func:`get_config`.
        device: replaces ``MODEL.DEVICE``; None takes the CPU where there is no GPU.

    Raises:
        ValueError: there is no such configuration.
        RuntimeError: there are no trained weights for it.
    """
    cfg = get_config(name, trained)
    if device is None and not torch.cuda.is_available():
        device = "cpu"
    if device is not None:
        cfg.MODEL.DEVICE = device
    model: nn.Module = build_model(cfg)
    return model
