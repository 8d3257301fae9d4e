"""One small data set, written by hand in the three formats."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

#: Width and height of each image, and its objects: class, then left, top, right and bottom.
IMAGES = {
    "a.png": ((60, 40), [("plate", 2, 3, 22, 13), ("cell", 0, 0, 7, 9)]),
    "b.png": ((37, 53), [("cell", 11, 20, 37, 53)]),
    "c.png": ((64, 64), []),
    "d.png": ((61, 47), [("cell", 5, 6, 6, 7), ("cell", 1, 2, 60, 46), ("plate", 13, 1, 44, 29)]),
    "e.png": ((50, 50), [("plate", 10, 10, 20, 20)]),
}
CLASSES = ["cell", "plate"]
SPLITS = {"train": ["a.png", "b.png", "c.png"], "val": ["d.png"], "test": ["e.png"]}


def write_image(path, size):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.zeros((size[1], size[0], 3), np.uint8)).save(path)


def coco_content(names):
    images, annotations = [], []
    for name in names:
        (width, height), objects = IMAGES[name]
        images.append({"id": len(images) + 1, "file_name": name, "width": width, "height": height})
        for class_name, x1, y1, x2, y2 in objects:
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": len(images),
                    "category_id": 3 + CLASSES.index(class_name),
                    "bbox": [x1, y1, x2 - x1, y2 - y1],
                }
            )
    categories = [{"id": 3 + i, "name": name} for i, name in enumerate(CLASSES)]
    return {"images": images, "annotations": annotations, "categories": categories}


def yolo_text(name):
    (width, height), objects = IMAGES[name]
    lines = []
    for class_name, x1, y1, x2, y2 in objects:
        box = [(x1 + x2) / 2 / width, (y1 + y2) / 2 / height, (x2 - x1) / width, (y2 - y1) / height]
        lines.append(" ".join([str(CLASSES.index(class_name)), *(f"{value:.6f}" for value in box)]))
    return "\n".join(lines)


def voc_text(name, difficult=()):
    objects = ""
    for number, (class_name, x1, y1, x2, y2) in enumerate(IMAGES[name][1]):
        objects += (
            f"<object><name>{class_name}</name><difficult>{int(number in difficult)}</difficult>"
            f"<bndbox><xmin>{x1 + 1}</xmin><ymin>{y1 + 1}</ymin><xmax>{x2}</xmax><ymax>{y2}</ymax>"
            "</bndbox></object>"
        )
    return f"<annotation><filename>{name}</filename>{objects}</annotation>"


def write_coco(folder, splits):
    (folder / "annotations").mkdir(parents=True)
    for split, names in splits.items():
        for name in names:
            write_image(folder / "images" / name, IMAGES[name][0])
        path = folder / "annotations" / f"instances_{split}.json"
        path.write_text(json.dumps(coco_content(names)))


def write_yolo(folder, splits):
    for split, names in splits.items():
        (folder / "labels" / split).mkdir(parents=True)
        for name in names:
            write_image(folder / "images" / split / name, IMAGES[name][0])
            if IMAGES[name][1]:
                label = folder / "labels" / split / Path(name).with_suffix(".txt")
                label.write_text(yolo_text(name))
    lines = [f"{split}: images/{split}" for split in splits]
    (folder / "data.yaml").write_text("\n".join([*lines, f"nc: 2\nnames: {CLASSES}"]))


def write_voc(folder, splits):
    (folder / "Annotations").mkdir(parents=True)
    (folder / "ImageSets/Main").mkdir(parents=True)
    for split, names in splits.items():
        for name in names:
            write_image(folder / "JPEGImages" / name, IMAGES[name][0])
            path = folder / "Annotations" / Path(name).with_suffix(".xml")
            path.write_text(voc_text(name))
        stems = "\n".join(Path(name).stem for name in names)
        (folder / f"ImageSets/Main/{split}.txt").write_text(stems)


@pytest.fixture
def write_folder(tmp_path):
    """Write the data set in a format, with the given splits; returns its folder."""

    def write(format, splits=SPLITS):
        folder = tmp_path / format
        {"coco": write_coco, "yolo": write_yolo, "voc": write_voc}[format](folder, splits)
        return folder

    return write


@pytest.fixture
def boxes_of():
    """What a COCO annotation file says of each image: (class, left, top, right, bottom), ..."""

    def read(split):
        dataset = json.loads(Path(split.json_file).read_text())
        names = {category["id"]: category["name"] for category in dataset["categories"]}
        boxes = {image["file_name"]: [] for image in dataset["images"]}
        by_id = {image["id"]: image["file_name"] for image in dataset["images"]}
        for annotation in dataset["annotations"]:
            x, y, w, h = annotation["bbox"]
            box = (names[annotation["category_id"]], x, y, x + w, y + h)
            boxes[by_id[annotation["image_id"]]].append(box)
        for image in dataset["images"]:
            assert (Path(split.image_root) / image["file_name"]).is_file()
        return boxes

    return read


@pytest.fixture
def expected_boxes():
    """The boxes of some images."""
    return lambda names: {name: IMAGES[name][1] for name in names}
