"""Detectors of the DETR family as detectron2 meta-architectures."""

from .encoder import ENCODER_REGISTRY
from .meta_arch import (
    DeformableDETR,
    DetectionTransformer,
    DetectorOutputs,
    FocusDETR,
    LiteDETR,
    SparseDETR,
)

__all__ = [
    "ENCODER_REGISTRY",
    "DeformableDETR",
    "DetectionTransformer",
    "DetectorOutputs",
    "FocusDETR",
    "LiteDETR",
    "SparseDETR",
]
