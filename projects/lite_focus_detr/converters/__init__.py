"""Conversion of published checkpoints to the names and shapes of this package."""

from .class_rows import ClassNames
from .conversion import (
    BACKBONE_FORMATS,
    NATIVE_FORMAT,
    Conversion,
    convert_state_dict,
    detect_format,
    published_class_names,
    training_options,
    unwrap,
)
from .report import ConversionReport

__all__ = [
    "BACKBONE_FORMATS",
    "NATIVE_FORMAT",
    "ClassNames",
    "Conversion",
    "ConversionReport",
    "convert_state_dict",
    "detect_format",
    "published_class_names",
    "training_options",
    "unwrap",
]
