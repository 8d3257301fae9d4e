"""From a configuration file and the command line to a configuration."""

from __future__ import annotations

import ast
import importlib
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import getitem
from typing import Any

import yaml
from detectron2.config import CfgNode, get_cfg

from ..modeling.encoder import ENCODER_REGISTRY
from .defaults import add_backbone_config, add_data_config, add_detr_config, add_solver_config
from .safe_yaml import config_reader, parse_yaml
from .schedule import any_number_of_epochs, forget_steps, let_options_win, require_epochs
from .suggestions import did_you_mean
from .validation import validate_config


def add_lite_focus_detr_config(cfg: CfgNode) -> None:
    """Add the project's keys with their defaults to a detectron2 configuration, in place.

    Those of every registered encoder are among them; see also :func:`import_modules`.

    Args:
        cfg: of ``detectron2.config.get_cfg``.
    """
    # Modules to import before anything else of a configuration is read: they may register an
    # encoder with keys of its own, a backbone or a data set. Only names that Python can import.
    cfg.IMPORTS = []
    # Files in _BASE_ may be URLs that end with #sha256= and the hash of the file. Only the command
    # line can say so; in a file this key does nothing.
    cfg.REMOTE_BASE = False
    add_detr_config(cfg)
    add_solver_config(cfg)
    add_data_config(cfg)
    add_backbone_config(cfg)
    # Once each: an encoder derived from another shares its keys, and adding them again would reset
    # what a third one has added to them.
    for add_config in dict.fromkeys(encoder.add_config for _, encoder in ENCODER_REGISTRY):
        add_config(cfg)


# What of the configuration of a training is about its machine, and nothing for another one.
_OF_THE_MACHINE = (
    "OUTPUT_DIR",
    "MODEL.DEVICE",
    "MODEL.WEIGHTS",
    "MODEL.TIMM.PRETRAINED",
    "TEST.OPTIMIZE",
)


@dataclass(frozen=True)
class SavedConfig:
    """The configuration that a checkpoint holds, in the place of a configuration file.

    Places of the machine where it was trained (``OUTPUT_DIR``, ``MODEL.WEIGHTS``, ``MODEL.DEVICE``)
    are not taken from it.

    Attributes:
        text: YAML, as ``cfg.dump()`` gives it.
        file: the checkpoint, for messages.
        trust_imports: import the modules that its ``IMPORTS`` name, and let timm take the model
            that its ``MODEL.TIMM.NAME`` names from elsewhere.
    """

    text: str
    file: str
    trust_imports: bool = False

    def __str__(self) -> str:
        return self.file


#: A YAML file, or what a checkpoint holds.
ConfigFile = str | SavedConfig


def load_config(config_file: ConfigFile, options: Sequence[str] = ()) -> CfgNode:
    """Read a configuration.

    Args:
        config_file: YAML file, possibly with ``_BASE_``; empty takes the defaults.
        options: alternating keys and values, as on the command line.

    Returns:
        the checked configuration, not frozen.

    Raises:
        ValueError: a missing or malformed file, an unknown key (with the likely ones) or a value
            that does not fit.
    """
    import_modules(config_file, options)
    cfg = get_cfg()
    add_lite_focus_detr_config(cfg)
    merge_config(cfg, config_file, options)
    validate_config(cfg)
    return cfg


def import_modules(config_file: ConfigFile, options: Sequence[str] = ()) -> None:
    """Import the ``IMPORTS`` of a configuration, from the current folder as well.

    Args:
        config_file: see :func:`load_config`.
        options: likewise.

    Raises:
        ValueError: there is no such module, the value is no list of names, or a checkpoint names
            them and is not trusted.
        ImportError: a module fails; the error inside it is the cause.
    """
    names, place = _names_to_import(config_file, options)
    if names and os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    for name in names:
        try:
            importlib.import_module(name)
        except ModuleNotFoundError as error:
            # The module itself or a package of it; not one that it imports.
            if error.name is None or not f"{name}.".startswith(f"{error.name}."):
                raise
            raise ValueError(
                f"IMPORTS in {place} names the module {name!r}, which does not exist; it must lie "
                "in the current folder or on PYTHONPATH"
            ) from None
        except (ValueError, OSError, SystemExit) as error:
            # The first two are reported in one line where the user made a mistake, the third ends
            # the process; here it is the module.
            raise ImportError(f"the module {name!r} of IMPORTS in {place} fails") from error


def _names_to_import(config_file: ConfigFile, options: Sequence[str]) -> tuple[list[str], str]:
    """The modules, and the place that names them; the command line beats the file."""
    names: Any = []
    place = str(config_file)
    if config_file:
        names = _read_yaml(config_file, options).get("IMPORTS", [])
    options = _parse_imports(options)
    if "IMPORTS" in options[::2]:
        place = "the command line"
        names = dict(zip(options[::2], options[1::2], strict=True))["IMPORTS"]  # the last one
    if not isinstance(names, (list, tuple)) or not all(map(_is_module_name, names)):
        raise ValueError(f"IMPORTS in {place} is {names!r}; give a list of modules, [my_encoder]")
    untrusted = isinstance(config_file, SavedConfig) and not config_file.trust_imports
    if names and untrusted and place == str(config_file):
        raise ValueError(
            f"{place} needs the modules {', '.join(names)} (IMPORTS), and importing them runs "
            "their code: give --trust-imports if you trust them"
        )
    return list(names), place


def _parse_imports(options: Sequence[Any]) -> list[Any]:
    """The options, with the value of ``IMPORTS`` as Python or YAML reads it: ``[my_encoder]``."""
    _require_pairs(options)
    parsed = list(options)
    for index, key in enumerate(options[::2]):
        text = options[2 * index + 1]
        if key == "IMPORTS" and isinstance(text, str):
            parsed[2 * index + 1] = _parse_literal(text)
    return parsed


def _parse_literal(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        pass
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        return text


def _is_module_name(name: object) -> bool:
    return isinstance(name, str) and all(part.isidentifier() for part in name.split("."))


def _require_pairs(options: Sequence[str]) -> None:
    if len(options) % 2:
        raise ValueError(
            f"the command line ends with {options[-1]!r}: configuration keys and values come in "
            "pairs, KEY VALUE"
        )


def merge_config(cfg: CfgNode, config_file: ConfigFile, options: Sequence[str] = ()) -> None:
    """Merge a file and options into a configuration, in place.

    Args:
        cfg: with all keys that they may have.
        config_file: see :func:`load_config`.
        options: likewise.

    Raises:
        ValueError: as :func:`load_config`; other combinations of keys than those of the schedule
            are not checked.
    """
    with any_number_of_epochs(cfg):
        if config_file:
            content = _read_yaml(config_file, options)
            place = str(config_file)
            _merge(cfg, _flatten(content), place, lambda: cfg.merge_from_other_cfg(content))
    require_epochs(cfg.SOLVER)
    forget_steps(cfg.SOLVER)
    recipe = cfg.SOLVER.clone()
    options = _parse_imports(options)
    with any_number_of_epochs(cfg):
        _merge(cfg, options[::2], "the command line", lambda: cfg.merge_from_list(options))
    require_epochs(cfg.SOLVER)
    let_options_win(cfg.SOLVER, recipe, options[::2])


def _read_yaml(config_file: ConfigFile, options: Sequence[Any]) -> CfgNode:
    no_mapping = (
        f"{config_file}, or a file that it names in _BASE_, is empty or no mapping of "
        "configuration keys to values; it begins with lines like MODEL:"
    )
    try:
        if isinstance(config_file, SavedConfig):
            content = _saved_content(config_file)
        else:
            content = config_reader(options).load_yaml_with_base(config_file, allow_unsafe=False)
    except (TypeError, AttributeError) as error:
        raise ValueError(no_mapping) from error
    except FileNotFoundError as error:
        raise ValueError(
            f"configuration file {error.filename} does not exist; check --config-file and _BASE_"
        ) from error
    except (OSError, RecursionError) as error:
        reason = "a file of _BASE_ names itself" if isinstance(error, RecursionError) else error
        raise ValueError(f"cannot read the configuration file {config_file}: {reason}") from error
    except yaml.constructor.ConstructorError as error:
        raise ValueError(
            f"{config_file} is refused: {error.problem}; configurations hold only data"
        ) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        text = " ".join(str(error).split())
        raise ValueError(f"{config_file} is not valid YAML: {text}") from error
    if not isinstance(content, dict):
        raise ValueError(no_mapping)
    return CfgNode(content)


def _saved_content(config: SavedConfig) -> dict[str, Any]:
    """The mapping in the configuration of a checkpoint, without what is of another machine."""
    content: dict[str, Any] = parse_yaml(config.text, config.file)
    for key in _OF_THE_MACHINE:
        *parents, name = key.split(".")
        node = content
        for parent in parents:
            node = node.get(parent, {})
        node.pop(name, None)
    if not config.trust_imports:
        _refuse_elsewhere(content, config.file)
    return content


def _refuse_elsewhere(content: Mapping[str, Any], file: str) -> None:
    """Refuse ``hf-hub:`` and ``local-dir:``, which make timm fetch or read files."""
    name = str(content.get("MODEL", {}).get("TIMM", {}).get("NAME", ""))
    if ":" in name:
        raise ValueError(
            f"{file} takes the model {name!r} (MODEL.TIMM.NAME) from elsewhere: give "
            "--trust-imports if you trust it"
        )


def _flatten(node: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Full names of all keys, of nodes as well as of leaves."""
    names = []
    for key, value in node.items():
        names.append(f"{prefix}{key}")
        if isinstance(value, Mapping):
            names += _flatten(value, f"{prefix}{key}.")
    return names


def _merge(cfg: CfgNode, keys: Sequence[str], place: str, merge: Callable[[], None]) -> None:
    known = _flatten(cfg)
    for key in keys:
        if key not in known:
            hint = did_you_mean(key, known)
            raise ValueError(f"unknown configuration key {key} in {place}{hint}")
    before = cfg.clone()
    try:
        merge()
    except (ValueError, AssertionError) as error:  # yacs asserts some of its conditions
        raise ValueError(f"{place}: {error}") from error
    for key in keys:
        default, value = (reduce(getitem, key.split("."), x) for x in (before, cfg))
        if isinstance(default, (list, tuple)) and not _is_like(value, default):
            raise ValueError(f"{place}: {key} is {value!r}; it must be like {default!r}")


def _is_like(value: object, example: object) -> bool:
    """Whether a value and, of a list, its entries are of the kind of an example; yacs compares
    lists by their own type only."""
    if isinstance(example, (list, tuple)):
        if not isinstance(value, (list, tuple)):
            return False
        return not example or all(_is_like(entry, example[0]) for entry in value)
    number = isinstance(example, (int, float)) and not isinstance(example, bool)
    return isinstance(value, (int, float) if number else type(example))
