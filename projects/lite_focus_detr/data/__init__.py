"""Data sets, their registration from the configuration, and the DETR input pipeline."""

from .dataset_mapper import DetrDatasetMapper, read_image
from .registration import register_datasets

__all__ = ["DetrDatasetMapper", "read_image", "register_datasets"]
