"""What is known of a data folder."""

from __future__ import annotations

from dataclasses import dataclass

SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class AnnotatedImages:
    """A COCO annotation file and the folder that its file names are relative to."""

    json_file: str
    image_root: str


@dataclass(frozen=True)
class DataFolder:
    """The splits and classes of a data folder; a split that it does not have is None.

    ``format`` is "COCO", "YOLO" or "Pascal VOC". ``class_names`` are in the order of the class
    indices, which is that of the category ids in all annotation files.
    """

    format: str
    train: AnnotatedImages | None
    val: AnnotatedImages | None
    test: AnnotatedImages | None
    class_names: tuple[str, ...]

    @property
    def splits(self) -> dict[str, AnnotatedImages]:
        """Those that there are, by their names "train", "val" and "test"."""
        found = {name: getattr(self, name) for name in SPLITS}
        return {name: split for name, split in found.items() if split is not None}
