"""Detectors of the DETR family as detectron2 meta-architectures."""

from .. import backbone
from .encoder import ENCODER_REGISTRY
from .meta_arch import (
    DeformableDETR,
    DetectionTransformer,
    FocusDETR,
    LiteDETR,
    LiteFocusDETR,
    SparseDETR,
)
from .structures import DetectorOutputs

__all__ = [
    "ENCODER_REGISTRY",
    "DeformableDETR",
    "DetectionTransformer",
    "DetectorOutputs",
    "FocusDETR",
    "LiteDETR",
    "LiteFocusDETR",
    "SparseDETR",
    "backbone",
]
