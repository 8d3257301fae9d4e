"""Folders with COCO files: layouts, places of images, faults."""

import json
import shutil
from pathlib import Path

import pytest

from lite_focus_detr.data.folders import read_data_folder


def read(folder):
    return read_data_folder(folder, folder.parent / "cache")


def test_files_are_taken_as_they_are(write_folder):
    folder = write_folder("coco")
    found = read(folder)
    assert found.train.json_file == str(folder / "annotations/instances_train.json")
    assert found.train.image_root == str(folder / "images")


def test_an_export_of_roboflow(write_folder, boxes_of, expected_boxes, tmp_path):
    source = write_folder("coco")
    folder = tmp_path / "export"
    for split, name in (("train", "train"), ("val", "valid")):
        shutil.copytree(source / "images", folder / name)
        annotations = source / f"annotations/instances_{split}.json"
        shutil.copy(annotations, folder / name / "_annotations.coco.json")
    found = read(folder)
    assert found.val.image_root == str(folder / "valid")
    assert boxes_of(found.val) == expected_boxes(["d.png"])
    assert found.test is None


@pytest.mark.parametrize("place", ["images/val", "val2017", "val/images", "annotations", "."])
def test_images_are_found(place, write_folder, tmp_path):
    source = write_folder("coco", {"val": ["d.png"]})
    folder = tmp_path / "moved"
    shutil.copytree(source / "annotations", folder / "annotations")
    shutil.copytree(source / "images", folder / place, dirs_exist_ok=True)
    assert read(folder).val.image_root == str(folder / place)


def test_other_files_of_coco_are_left_out(write_folder):
    folder = write_folder("coco")
    for name in ("captions_train.json", "captions_val.json"):
        (folder / "annotations" / name).write_text("[]")
    assert read(folder).train.json_file.endswith("instances_train.json")


def test_a_single_file_beside_the_images_is_split(write_folder, tmp_path):
    source = write_folder("coco", {"train": ["a.png", "b.png", "d.png"]})
    folder = tmp_path / "flat"
    shutil.copytree(source / "images", folder)
    shutil.copy(source / "annotations/instances_train.json", folder / "labels.json")
    (folder / "package.json").write_text('{"name": "something else"}')
    found = read(folder)
    assert len(json.loads(Path(found.val.json_file).read_text())["images"]) == 1
    assert found.val.image_root == str(folder)


def test_two_files_of_one_split_are_ambiguous(write_folder):
    folder = write_folder("coco")
    shutil.copy(
        folder / "annotations/instances_val.json", folder / "annotations/instances_valid.json"
    )
    with pytest.raises(ValueError, match=r"instances_val\.json and .*instances_valid\.json"):
        read(folder)


def test_missing_images_are_named(write_folder):
    folder = write_folder("coco")
    shutil.rmtree(folder / "images")
    (folder / "images").mkdir()
    with pytest.raises(ValueError, match=r"instances_train\.json, such as a\.png, are in none of"):
        read(folder)


def test_splits_with_other_categories_are_refused(write_folder):
    folder = write_folder("coco")
    path = folder / "annotations/instances_val.json"
    path.write_text(path.read_text().replace('"plate"', '"table"'))
    with pytest.raises(ValueError, match=r"val\.json are cell, table, those of .*cell, plate;"):
        read(folder)


def test_a_damaged_file_is_named(write_folder):
    folder = write_folder("coco")
    (folder / "annotations/instances_val.json").write_text('{"images": [')
    with pytest.raises(ValueError, match=r"instances_val\.json is not valid JSON at byte 12"):
        read(folder)
