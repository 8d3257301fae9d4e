"""A data folder with the classes of a detector, in its order."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..coco_json import read_coco_json, write_json
from .records import AnnotatedImages, DataFolder


def with_class_order(found: DataFolder, class_names: Sequence[str], cache: Path) -> DataFolder:
    """The same data with the class indices of a detector that was trained on other data.

    Classes are matched by name; the data need not have all of them.

    Args:
        found: of ``read_data_folder``.
        class_names: of the detector.
        cache: folder for the annotation files.

    Raises:
        ValueError: the data has a class that the detector does not have; names it.
    """
    if found.class_names == tuple(class_names):
        return found
    unknown = [name for name in found.class_names if name not in class_names]
    if unknown:
        raise ValueError(
            f"the data has the classes {', '.join(found.class_names)}, but the detector does not "
            f"know {', '.join(unknown)}: it tells apart {', '.join(class_names)}"
        )
    splits = {
        name: _reorder(split, class_names, cache / f"classes_{name}.json")
        for name, split in found.splits.items()
    }
    return DataFolder(
        found.format,
        splits.get("train"),
        splits.get("val"),
        splits.get("test"),
        tuple(class_names),
    )


def _reorder(
    split: AnnotatedImages, class_names: Sequence[str], json_file: Path
) -> AnnotatedImages:
    dataset = read_coco_json(split.json_file)
    ids = {name: number for number, name in enumerate(class_names, 1)}
    new = {category["id"]: ids[category["name"]] for category in dataset["categories"]}
    content = {
        **dataset,
        "categories": [{"id": number, "name": name} for name, number in ids.items()],
        "annotations": [
            {**annotation, "category_id": new.get(annotation["category_id"])}
            for annotation in dataset.get("annotations", ())
        ],
    }
    return AnnotatedImages(write_json(content, str(json_file)), split.image_root)
