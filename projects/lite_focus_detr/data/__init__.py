"""Data sets, their registration from the configuration, and the DETR input pipeline."""

from .dataset_mapper import DetrDatasetMapper
from .errors import DataError, UnreadableImage
from .image_file import convert_image, read_image
from .registration import register_datasets

__all__ = [
    "DataError",
    "DetrDatasetMapper",
    "UnreadableImage",
    "convert_image",
    "read_image",
    "register_datasets",
]
