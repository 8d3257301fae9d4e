"""Folders in Pascal VOC format: layouts, lists, difficult objects, faults."""

import json
import shutil
from pathlib import Path

import pytest

from lite_focus_detr.data.folders import read_data_folder


def read(folder):
    return read_data_folder(folder, folder.parent / "cache")


def test_difficult_objects_need_not_be_found(write_folder):
    folder = write_folder("voc")
    path = folder / "Annotations/d.xml"
    path.write_text(path.read_text().replace("<difficult>0", "<difficult>1", 1))
    annotations = json.loads(Path(read(folder).val.json_file).read_text())["annotations"]
    assert [annotation["iscrowd"] for annotation in annotations] == [1, 0, 0]


def test_a_box_of_no_pixel_stays_without_area(write_folder):
    folder = write_folder("voc")
    path = folder / "Annotations/e.xml"
    path.write_text(path.read_text().replace("<xmax>20", "<xmax>10"))
    (annotation,) = json.loads(Path(read(folder).test.json_file).read_text())["annotations"]
    assert annotation["bbox"][2:] == [0, 0]


def test_the_end_of_training_and_validation_together(write_folder, boxes_of):
    folder = write_folder("voc")
    lists = folder / "ImageSets/Main"
    (lists / "train.txt").rename(lists / "trainval.txt")
    (lists / "trainval.txt").write_text("a 1\nb -1\nd  0\n")
    found = read(folder)
    assert list(boxes_of(found.train)) == ["a.png", "b.png"]
    assert list(boxes_of(found.val)) == ["d.png"]


@pytest.mark.parametrize("flat", [True, False])
def test_without_lists_the_folders_name_the_splits(
    flat, write_folder, boxes_of, expected_boxes, tmp_path
):
    source = write_folder("voc")
    folder = tmp_path / "export"
    for split, names in (("train", "abc"), ("valid", "d")):
        for name in names:
            for place, suffix in (("JPEGImages", "png"), ("Annotations", "xml")):
                target = folder / split / ("." if flat else place)
                target.mkdir(parents=True, exist_ok=True)
                shutil.copy(source / place / f"{name}.{suffix}", target)
    found = read(folder)
    assert boxes_of(found.train) == expected_boxes(["a.png", "b.png", "c.png"])
    assert boxes_of(found.val) == expected_boxes(["d.png"])
    assert boxes_of(read(folder / "train").val) == expected_boxes(["c.png"])


def test_a_list_that_names_no_image(write_folder):
    folder = write_folder("voc")
    (folder / "ImageSets/Main/val.txt").write_text("x\n")
    with pytest.raises(ValueError, match=r"val\.txt names x, but .*JPEGImages has no such image"):
        read(folder)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("<annotation>", "<annotation", "cannot read the annotations of .*JPEGImages"),
        ("<xmax>7", "<xmax>seven", "Invalid 'xmax' value 'seven'"),
        ("<name>cell</name>", "", "Missing 'name'"),
    ],
)
def test_faults_are_one_line(old, new, message, write_folder):
    folder = write_folder("voc")
    path = folder / "Annotations/a.xml"
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(ValueError, match=message) as caught:
        read(folder)
    assert "\n" not in str(caught.value)


def test_files_without_objects(write_folder):
    folder = write_folder("voc", {"train": ["c.png"]})
    with pytest.raises(ValueError, match=r"XML files of .* hold no object"):
        read(folder)


def by_folders(source, folder, splits):
    """The same data with folders that name the splits in the place of lists."""
    for split, names in splits.items():
        (folder / split).mkdir(parents=True)
        for name in names:
            shutil.copy(source / f"JPEGImages/{name}.png", folder / split)
            shutil.copy(source / f"Annotations/{name}.xml", folder / split)
    return folder


def test_two_folders_of_one_split_are_refused(write_folder, tmp_path):
    splits = {"train": "ab", "val": "d", "valid": "e"}
    folder = by_folders(write_folder("voc"), tmp_path / "export", splits)
    message = r"two folders of the split val, \S*/export/val and \S*/export/valid; move one"
    with pytest.raises(ValueError, match=message):
        read(folder)


def test_a_split_without_objects(write_folder, boxes_of, expected_boxes, tmp_path):
    splits = {"train": "ab", "val": "c"}
    found = read(by_folders(write_folder("voc"), tmp_path / "export", splits))
    assert boxes_of(found.val) == {"c.png": []}
    assert boxes_of(found.train) == expected_boxes(["a.png", "b.png"])
