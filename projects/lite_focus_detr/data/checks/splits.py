"""The annotations of one split, and what is wrong with them."""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from ..coco_json import FILLED, CleanedCoco, clean_coco, read_coco_json
from ..folders import AnnotatedImages
from .findings import Finding, Level

# A box may end a pixel beyond the image where corners were counted from 1.
_BORDER = 1.0


@dataclass(frozen=True)
class Split:
    """A COCO annotation file without invalid boxes, and the folder of its images."""

    name: str  #: train, val or test
    source: AnnotatedImages
    dataset: Mapping[str, Any]

    @cached_property
    def objects(self) -> dict[Any, list[dict[str, Any]]]:
        """Annotations that are no crowds, by the id of their image; all images are there."""
        found: defaultdict[Any, list[dict[str, Any]]] = defaultdict(list)
        for annotation in self.dataset.get("annotations", ()):
            if not annotation["iscrowd"]:
                found[annotation["image_id"]].append(annotation)
        return {image["id"]: found[image["id"]] for image in self.dataset["images"]}

    @cached_property
    def counts(self) -> list[int]:
        """Objects of each class, in the order of the category ids."""
        found = Counter(x["category_id"] for own in self.objects.values() for x in own)
        return [found[category["id"]] for category in self.categories]

    @cached_property
    def categories(self) -> list[Mapping[str, Any]]:
        """Categories in the order of their ids, which is that of the classes."""
        return sorted(self.dataset["categories"], key=lambda category: int(category["id"]))

    def path(self, image: Mapping[str, Any]) -> str:
        """File of an image."""
        return os.path.join(self.source.image_root, image["file_name"])


def read_split(name: str, source: AnnotatedImages) -> tuple[Split, list[Finding]]:
    """Read and check an annotation file.

    Args:
        name: train, val or test.
        source: the file and the folder of its images.

    Returns:
        what training would use of it, and what is wrong with the rest.

    Raises:
        ValueError: the file is malformed; see ``read_coco_json`` and ``clean_coco``.
    """
    dataset = read_coco_json(source.json_file)
    cleaned = clean_coco(dataset, source.json_file)
    split = Split(name, source, cleaned.dataset)
    findings = [*_check_annotations(split.name, dataset, cleaned), *_check_objects(split)]
    return split, findings


def _check_annotations(
    name: str, dataset: Mapping[str, Any], cleaned: CleanedCoco
) -> Iterator[Finding]:
    """What was left out and filled in."""
    files = {image["id"]: image["file_name"] for image in dataset["images"]}
    places = {
        annotation["id"]: f"annotation {annotation['id']} of {files.get(annotation['image_id'])}"
        for annotation in dataset.get("annotations", ())
    }
    for reason, ids in cleaned.dropped.items():
        examples = (places[number] for number in ids)
        yield Finding.of(Level.WARNING, "boxes", f"ignored in {name}: {reason}", examples)
    for key, ids in cleaned.filled.items():
        text = f"no valid '{key}' in {name}, taken as {FILLED[key]}"
        yield Finding.of(Level.NOTE, "boxes", text, (places[number] for number in ids))


def _check_objects(split: Split) -> Iterator[Finding]:
    """What is unusual about those that training uses."""
    beyond = [f"annotation {x['id']}" for x in _beyond_the_image(split)]
    if beyond:
        text = f"boxes of {split.name} that reach over the border of the image, where they are cut"
        yield Finding.of(Level.NOTE, "boxes", text, beyond)
    images = split.dataset["images"]
    empty = [image["file_name"] for image in images if not split.objects[image["id"]]]
    if empty:
        yield Finding.of(Level.NOTE, "boxes", f"images of {split.name} without objects", empty)


def _beyond_the_image(split: Split) -> Iterator[Mapping[str, Any]]:
    for image in split.dataset["images"]:
        for annotation in split.objects[image["id"]]:
            x, y, w, h = annotation["bbox"]
            over = max(-x, -y, x + w - image["width"], y + h - image["height"])
            if over > _BORDER:
                yield annotation
