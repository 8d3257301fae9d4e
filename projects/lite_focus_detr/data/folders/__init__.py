"""Folders of a user's own data: recognised as COCO, YOLO or Pascal VOC, read as COCO."""

from .class_order import with_class_order
from .options import folder_options
from .reading import read_data_folder
from .records import AnnotatedImages, DataFolder

__all__ = [
    "AnnotatedImages",
    "DataFolder",
    "folder_options",
    "read_data_folder",
    "with_class_order",
]
