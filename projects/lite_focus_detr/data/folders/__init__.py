"""Folders of a user's own data: recognised as COCO, YOLO or Pascal VOC, read as COCO."""

from .reading import read_data_folder
from .records import AnnotatedImages, DataFolder

__all__ = ["AnnotatedImages", "DataFolder", "read_data_folder"]
