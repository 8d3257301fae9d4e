"""What describes one upstream checkpoint format: how to recognise it and how to rename its keys."""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Callable, Collection, Mapping

from detectron2.config import CfgNode

from .renamed_weights import RenamedWeights

Rules = tuple[tuple[str, str], ...]
Options = Mapping[str, object]


@dataclasses.dataclass(frozen=True)
class CheckpointFormat:
    """One published layout of weights.

    Attributes:
        name: identifies the format in reports.
        recognises: whether a file with these keys has this format.
        rename: our name of an upstream tensor. Aliases of one tensor get the same name, the head
            of the encoder output (index: number of decoder layers) the next name in ``heads``,
            those of the encoder layers the names after it.
        complete: what names cannot say, such as tensors that are one of ours together, and biases
            that the published layers do not have.
        encoder_heads: our name of the heads of the encoder layers; empty if there are none.
        settings: configuration keys and the values that these weights were trained with, from the
            keys and the options that the file was saved with, if it holds them; a tuple if the file
            does not tell which of several, a dictionary for keys that belong together. Only keys
            that no tensor depends on, or whose absence a list of tensors explains badly.
        notes: further sentences for the user, from the keys, the options and the configuration.
        hidden: keys that decide the detections and that no tensor depends on, named to the user
            unless ``settings`` knows them.
        backbone_only: the file initialises a backbone, everything else is to be trained.
    """

    name: str
    recognises: Callable[[Collection[str]], bool]
    rename: Callable[[str], str]
    complete: Callable[[RenamedWeights], None] = lambda weights: None
    encoder_heads: str = ""
    settings: Callable[[Collection[str], Options], Mapping[str, object]] = lambda keys, options: {}
    notes: Callable[[Collection[str], Options, CfgNode], list[str]] = lambda keys, options, cfg: []
    hidden: tuple[str, ...] = ()
    backbone_only: bool = False


def rename_by(rules: Rules) -> Callable[[str], str]:
    """A function that applies regular-expression substitutions to a key, all of them in order."""
    return functools.partial(_substitute, rules)


def _substitute(rules: Rules, key: str) -> str:
    for pattern, replacement in rules:
        key = re.sub(pattern, replacement, key)
    return key


def all_match(pattern: str) -> Callable[[Collection[str]], bool]:
    """A predicate: there are keys, and every one of them starts with the regular expression."""
    matches = re.compile(pattern).match
    return lambda keys: bool(keys) and all(matches(key) is not None for key in keys)


def has_keys(*names: str) -> Callable[[Collection[str]], bool]:
    """A predicate: all the names are among the keys."""
    return lambda keys: all(name in keys for name in names)
