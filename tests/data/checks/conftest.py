"""Data sets with known faults."""

import json

import pytest

from lite_focus_detr.data.checks.splits import read_split
from lite_focus_detr.data.folders import AnnotatedImages


@pytest.fixture
def make_split(tmp_path):
    """A split of images of 100 x 80 pixels, each given by its objects: (class, box)."""

    def make(name, images, classes=("cell", "plate"), size=(100, 80), **changes):
        annotations = [
            {"image_id": number, "category_id": 3 + 2 * label, "bbox": list(box), "iscrowd": 0}
            | {"area": abs(box[2] * box[3]), "segmentation": []}
            for number, objects in enumerate(images, 1)
            for label, box in objects
        ]
        content = {
            "images": [
                {"id": i, "file_name": f"{name}{i}.png", "width": size[0], "height": size[1]}
                for i in range(1, len(images) + 1)
            ],
            "categories": [{"id": 3 + 2 * i, "name": x} for i, x in enumerate(classes)],
            "annotations": [{"id": i, **a} for i, a in enumerate(annotations, 1)],
        }
        path = tmp_path / f"{name}.json"
        path.write_text(json.dumps({**content, **changes}))
        return read_split(name, AnnotatedImages(str(path), str(tmp_path)))

    return make
