"""Configurations and trained weights of this project by name, in a checkout and installed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from torch import nn

from .config import ConfigFile, SavedConfig, load_config
from .config.suggestions import did_you_mean
from .config.trained_weights import trained_names, trained_weights_file

_PACKAGE = Path(__file__).parent
#: Installed as package data; in a checkout beside the folder of the package.
CONFIG_ROOTS = (_PACKAGE / "configs", _PACKAGE.parents[1] / "configs")


def get_config_file(name: str) -> str:
    """Path of a configuration file.

    Args:
        name: path below ``configs/``, such as ``deformable_detr/dino_r50_12ep``, or only its last
            part where that is unique; with or without ``.yaml``.

    Raises:
        ValueError: there is no such file, or more than one.
    """
    root = _root()
    leaf = name.removesuffix(".yaml") + ".yaml"
    found = [root / leaf] if (root / leaf).is_file() else sorted(root.rglob(leaf.lstrip("/")))
    if len(found) == 1:
        return str(found[0])
    names = ", ".join(_names(root, found) if found else config_names())
    what = "is ambiguous" if found else "is not in the model zoo"
    raise ValueError(f"configuration {name} {what}; choose from: {names}")


def config_names() -> list[str]:
    """Names of all configurations, as :func:`get_config_file` takes them."""
    root = _root()
    return _names(root, (path for path in root.rglob("*.yaml") if "_base_" not in path.parts))


def find_config_file(path_or_name: ConfigFile) -> ConfigFile:
    """The argument itself if it is a path, what a checkpoint holds, or empty, else see
    :func:`get_config_file`.

    Raises:
        ValueError: there is neither such a file nor such a name.
    """
    if isinstance(path_or_name, SavedConfig):
        return path_or_name
    if not path_or_name or Path(path_or_name).exists():
        return path_or_name
    try:
        return get_config_file(path_or_name)
    except ValueError:
        path = Path(path_or_name)
        if path.suffix not in (".yaml", ".yml"):
            raise
    leaves = {Path(name).name for name in config_names()}
    raise ValueError(
        f"configuration file {path} does not exist, nor is it in the model zoo"
        f"{did_you_mean(path.stem, leaves)}"
    )


def _root() -> Path:
    root = next((root for root in CONFIG_ROOTS if root.is_dir()), None)
    if root is None:
        raise ValueError(f"no folder 'configs' in {_PACKAGE} or in {_PACKAGE.parents[1]}")
    return root


def _names(root: Path, paths: Iterable[Path]) -> list[str]:
    return sorted(path.relative_to(root).with_suffix("").as_posix() for path in paths)


def get_config(name_or_path: ConfigFile, opts: Sequence[str] = ()) -> CfgNode:
    """Configuration of a model, checked and ready to be changed.

    Args:
        name_or_path: path of a file, what a checkpoint holds, or see :func:`get_config_file`.
        opts: alternating keys and values that change it, as on the command line.

    Raises:
        ValueError: there is no such configuration, or something in it is wrong.
    """
    return load_config(find_config_file(name_or_path), opts)


def get_weights_file(name: str) -> str:
    """Path of the weights that this project has trained for a configuration.

    Args:
        name: see :func:`get_config_file`.

    Raises:
        ValueError: there is no such configuration.
        RuntimeError: there are no trained weights for it.
        FileNotFoundError: there are, but this installation does not have them.
    """
    config_file, known = get_config_file(name), trained_names()
    leaf = Path(config_file).stem
    if leaf not in known:
        raise RuntimeError(
            f"no trained weights are published for {name}, only for {', '.join(known)}; set "
            "MODEL.WEIGHTS to a checkpoint, for example to the file of the original authors that "
            f"{config_file} names"
        )
    return trained_weights_file(leaf)


def get(name: str, trained: bool = False, device: str | None = None) -> nn.Module:
    """Build a model, in training mode; its weights are random unless ``trained``.

    Args:
        name: see :func:`get_config`.
        trained: with the weights that this project has trained.
        device: replaces ``MODEL.DEVICE``; None takes the CPU where there is no GPU.

    Raises:
        ValueError: there is no such configuration.
        RuntimeError: there are no trained weights for it.
        FileNotFoundError: there are, but this installation does not have them.
    """
    weights = get_weights_file(name) if trained else ""
    cfg = get_config(name)
    if device is None and not torch.cuda.is_available():
        device = "cpu"
    if device is not None:
        cfg.MODEL.DEVICE = device
    model: nn.Module = build_model(cfg)
    if weights:
        from .engine import DetrCheckpointer  # all of the engine, which few who build a model need

        DetrCheckpointer(model, cfg=cfg, for_inference=True).load(weights)
    return model
