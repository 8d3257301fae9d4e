"""Efficient DETR encoders for detectron2: importing the package registers its detectors."""

from . import modeling
from .config import add_lite_focus_detr_config, validate_config

__version__ = "0.1.0"

__all__ = ["__version__", "add_lite_focus_detr_config", "modeling", "validate_config"]
