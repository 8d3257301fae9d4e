"""Recognition of data folders: the three formats of the same data are the same data."""

import os

import pytest

from lite_focus_detr.data.folders import read_data_folder

NAMES = {"coco": "COCO", "yolo": "YOLO", "voc": "Pascal VOC"}
SPLITS = {"train": ["a.png", "b.png", "c.png"], "val": ["d.png"], "test": ["e.png"]}


@pytest.mark.parametrize("format", NAMES)
def test_every_format_gives_the_same_boxes(
    format, write_folder, boxes_of, expected_boxes, tmp_path
):
    found = read_data_folder(write_folder(format), tmp_path / "cache")
    assert found.format == NAMES[format]
    assert found.class_names == ("cell", "plate")
    assert list(found.splits) == ["train", "val", "test"]
    for split, names in SPLITS.items():
        assert boxes_of(found.splits[split]) == expected_boxes(names)


@pytest.mark.parametrize("format", NAMES)
def test_the_validation_split_is_the_same_in_every_format(format, write_folder, boxes_of, tmp_path):
    every = [*SPLITS["train"], *SPLITS["val"]]
    found = read_data_folder(write_folder(format, {"train": every}), tmp_path / "cache")
    # sha256sum of "a.png" to "d.png": that of "c.png" is the smallest.
    assert list(boxes_of(found.val)) == ["c.png"]
    assert list(boxes_of(found.train)) == ["a.png", "b.png", "d.png"]
    assert found.test is None


def test_a_folder_that_is_not_recognised_says_what_was_looked_for(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data/photo.jpg").touch()
    with pytest.raises(ValueError, match=r"holds photo\.jpg\. Looked for COCO: .*YOLO: .*Pascal"):
        read_data_folder(tmp_path / "data", tmp_path / "cache")
    with pytest.raises(ValueError, match="none does not exist"):
        read_data_folder(tmp_path / "none", tmp_path / "cache")
    with pytest.raises(ValueError, match=r"photo\.jpg is a file"):
        read_data_folder(tmp_path / "data/photo.jpg", tmp_path / "cache")


@pytest.mark.parametrize("format", NAMES)
def test_no_other_data_replaces_what_was_written(
    format, write_folder, boxes_of, expected_boxes, tmp_path, monkeypatch
):
    first = write_folder(format, {"train": ["a.png", "b.png"]}).rename(tmp_path / "first")
    found = read_data_folder(first, tmp_path / "cache")
    second = write_folder(format, {"train": ["d.png", "e.png"]})
    read_data_folder(second, tmp_path / "cache")
    boxes = boxes_of(found.train) | boxes_of(found.val)
    assert boxes == expected_boxes(["a.png", "b.png"])
    # The same folder by another path is the same data.
    monkeypatch.chdir(tmp_path)
    assert read_data_folder("first", "cache").val.json_file == os.path.relpath(found.val.json_file)
