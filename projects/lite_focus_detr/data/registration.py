"""Registers the data sets that the configuration names in detectron2's catalogs."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import load_coco_json
from detectron2.utils.file_io import PathManager

from .coco_json import prepare_coco_json
from .shapes import CLASS_NAMES, SPLITS, ShapesSpec, draw_dataset

Record = dict[str, Any]

_GENERATED = frozenset(f"shapes_{split}" for split in SPLITS)
# Repaired annotations and predictions are written to files with the name of the data set.
_FILE_NAME = re.compile(r"(?!\.)[^/\\\x00-\x1f\x7f]{1,200}")


def register_datasets(cfg: CfgNode) -> None:
    """Register ``DATASETS.COCO`` and the generated ``shapes_train`` and ``shapes_val``.

    No file is read or drawn before a data set is used. Calling it again, also in a spawned
    process, changes nothing; a name whose paths have changed since is registered anew.

    Raises:
        ValueError: an entry is malformed, or its name belongs to another entry, to a generated
            data set or to one of detectron2.
    """
    taken = set(_GENERATED)
    entries = cfg.DATASETS.COCO
    if not isinstance(entries, (list, tuple)):
        raise ValueError(
            f"DATASETS.COCO is {entries!r}; it must be a list of [name, json file, image folder]"
        )
    for entry in entries:
        _require_entry(entry)
        name, json_file, image_root = entry
        if name in taken:
            raise _name_is_taken(name)
        taken.add(name)
        source = CocoSource(name, json_file, image_root, os.path.join(cfg.OUTPUT_DIR, "datasets"))
        _register(name, source, image_root=image_root, evaluator_type="coco")
    shapes = cfg.DATASETS.SHAPES
    for split, num_images in (("train", shapes.NUM_TRAIN), ("val", shapes.NUM_VAL)):
        spec = ShapesSpec(split, num_images, shapes.IMAGE_SIZE, shapes.SEED)
        shapes_source = ShapesSource(f"shapes_{split}", shapes.ROOT, spec)
        _register(
            f"shapes_{split}",
            shapes_source,
            json_file=spec.json_file(shapes.ROOT),
            image_root=spec.image_root(shapes.ROOT),
            evaluator_type="coco",
            thing_classes=list(CLASS_NAMES),
        )


def _require_entry(entry: Any) -> None:
    is_list = isinstance(entry, (list, tuple))
    if not is_list or len(entry) != 3 or not all(isinstance(field, str) for field in entry):
        raise ValueError(
            f"DATASETS.COCO has the entry {entry!r}; it must be [name, json file, image folder]"
        )
    if not _FILE_NAME.fullmatch(entry[0]):
        raise ValueError(
            f"DATASETS.COCO has a data set named {entry[0]!r}; files in OUTPUT_DIR have this name "
            "too: it may not begin with a dot, hold a slash or what cannot be printed, or be "
            "longer than 200 characters"
        )


@dataclass(frozen=True)
class CocoSource:
    """Loads one entry of ``DATASETS.COCO``, without invalid boxes."""

    name: str
    json_file: str
    image_root: str
    cache_dir: str

    def __call__(self) -> list[Record]:
        """Return one record per image in detectron2's format.

        Raises:
            ValueError: the annotation file or the image folder is missing or malformed.
        """
        json_file = prepare_coco_json(self.name, self.json_file, self.cache_dir)
        if not PathManager.isdir(self.image_root):
            raise ValueError(
                f"image folder {self.image_root} of data set {self.name} does not exist; "
                "check DATASETS.COCO"
            )
        metadata = MetadataCatalog.get(self.name)
        if not hasattr(metadata, "json_file"):
            metadata.json_file = json_file
        return list(load_coco_json(json_file, self.image_root, self.name))


@dataclass(frozen=True)
class ShapesSource:
    """Draws a generated data set when it is first used, and loads it."""

    name: str
    root: str
    spec: ShapesSpec

    def __call__(self) -> list[Record]:
        """Return one record per image in detectron2's format."""
        draw_dataset(self.root, self.spec)
        image_root = self.spec.image_root(self.root)
        return list(load_coco_json(self.spec.json_file(self.root), image_root, self.name))


def is_taken(name: str) -> bool:
    """Whether a data set that is not of ``DATASETS.COCO`` has a name: generated, or detectron2's.

    Args:
        name: that an entry would have.
    """
    known = DatasetCatalog.data.get(name)
    return name in _GENERATED or not (known is None or isinstance(known, CocoSource))


def _register(name: str, source: Callable[[], list[Record]], **metadata: Any) -> None:
    known = DatasetCatalog.data.get(name)
    if known == source:
        return
    if known is not None:
        if not isinstance(known, (CocoSource, ShapesSource)):
            raise _name_is_taken(name)
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)
    DatasetCatalog.register(name, source)
    MetadataCatalog.get(name).set(**metadata)


def _name_is_taken(name: str) -> ValueError:
    return ValueError(f"DATASETS.COCO: a data set named {name} exists already; choose another name")
