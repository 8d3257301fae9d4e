"""Folders in YOLO format: layouts, lists, names of classes, faults."""

import shutil

import pytest

from lite_focus_detr.data.folders import read_data_folder

YAML = "nc: 2\nnames: [cell, plate]\n"


def read(folder):
    return read_data_folder(folder, folder.parent / "cache")


def test_an_export_of_roboflow(write_folder, boxes_of, expected_boxes, tmp_path):
    source = write_folder("yolo")
    folder = tmp_path / "export"
    for split, name in (("train", "train"), ("val", "valid")):
        shutil.copytree(source / "images" / split, folder / name / "images")
        shutil.copytree(source / "labels" / split, folder / name / "labels")
    lines = "train: ../train/images\nval: ../valid/images\ntest: ../test/images\n"
    (folder / "data.yaml").write_text(lines + YAML)
    found = read(folder)
    assert boxes_of(found.train) == expected_boxes(["a.png", "b.png", "c.png"])
    assert boxes_of(found.val) == expected_boxes(["d.png"])
    assert found.test is None


def test_lists_of_images_and_a_path_elsewhere(write_folder, boxes_of, expected_boxes):
    folder = write_folder("yolo")
    (folder / "train.txt").write_text("./images/train/a.png\n./images/val/d.png\n")
    (folder / "data.yaml").write_text(
        "path: ../somewhere/else\ntrain: train.txt\nval: [images/test, images/train]\n"
        "names: {0: cell, 1: plate}\n"
    )
    found = read(folder)
    train = boxes_of(found.train)
    assert train == {
        f"{s}/{n}": expected_boxes([n])[n] for s, n in (("train", "a.png"), ("val", "d.png"))
    }
    assert len(boxes_of(found.val)) == 4


def test_without_yaml_the_folders_name_the_splits(write_folder, boxes_of, expected_boxes):
    folder = write_folder("yolo")
    (folder / "data.yaml").unlink()
    with pytest.raises(ValueError, match=r"nothing names its classes: add classes\.txt"):
        read(folder)
    (folder / "classes.txt").write_text("cell\nplate\n")
    found = read(folder)
    assert found.class_names == ("cell", "plate")
    assert boxes_of(found.val) == expected_boxes(["d.png"])


def test_a_list_that_names_no_file(write_folder):
    folder = write_folder("yolo")
    (folder / "train.txt").write_text("images/train/x.png\n")
    (folder / "data.yaml").write_text("train: train.txt\n" + YAML)
    with pytest.raises(ValueError, match=r"train\.txt names images/train/x\.png, but there is no"):
        read(folder)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("5 0.5 0.5 0.1 0.1", r"images/val.*d\.png.*class_id 5"),
        ("0 0.5 0.5", r"images/val.*d\.txt.*expected at least 5 tokens"),
        ("0 0.5 0.5 nan 0.1", r"images/val.*d\.txt.*finite"),
    ],
)
def test_faults_of_labels_name_the_file(text, message, write_folder):
    folder = write_folder("yolo")
    (folder / "labels/val/d.txt").write_text(text)
    with pytest.raises(ValueError, match=message):
        read(folder)


def test_images_without_labels_are_refused(write_folder):
    folder = write_folder("yolo")
    shutil.rmtree(folder / "labels/val")
    with pytest.raises(
        ValueError, match=r"images/val have no labels: no text files in .*labels/val"
    ):
        read(folder)


def test_a_damaged_image_and_damaged_yaml_are_named(write_folder):
    folder = write_folder("yolo")
    (folder / "images/val/d.png").write_bytes(b"nothing")
    with pytest.raises(ValueError, match=r"cannot identify image file .*d\.png"):
        read(folder)
    (folder / "data.yaml").write_text("names: [cell")
    with pytest.raises(ValueError, match=r"data\.yaml is not valid YAML: .* line 1"):
        read(folder)


def test_an_outline_becomes_its_box(write_folder, boxes_of):
    folder = write_folder("yolo")
    # A triangle in an image of 61 x 47.
    (folder / "labels/val/d.txt").write_text(
        f"1 {10 / 61:.6f} {5 / 47:.6f} {30 / 61:.6f} {5 / 47:.6f} {20 / 61:.6f} {40 / 47:.6f}"
    )
    assert boxes_of(read(folder).val) == {"d.png": [("plate", 10, 5, 30, 40)]}


def test_yaml_of_many_aliases_is_refused(write_folder):
    folder = write_folder("yolo")
    aliases = ", ".join(["*a"] * 20)
    (folder / "data.yaml").write_text(f"names: [&a cell, {aliases}]\n")
    with pytest.raises(ValueError, match=r"data\.yaml is refused: .* more than 16 YAML aliases"):
        read(folder)


def test_the_file_of_names_is_never_half_written(write_folder, tmp_path, monkeypatch):
    folder = write_folder("yolo")
    (folder / "data.yaml").unlink()
    (folder / "classes.txt").write_text("cell\nplate\n")
    read(folder)
    (names,) = (tmp_path / "cache").rglob("yolo_names.yaml")
    before = names.stat().st_ino

    def fail(*args, **kwargs):
        raise OSError("disk full")

    with monkeypatch.context() as patch:
        patch.setattr("yaml.safe_dump", fail)
        with pytest.raises(OSError, match="disk full"):
            read(folder)
    assert names.read_text().split() == ["names:", "-", "cell", "-", "plate"]
    # Another process that has opened the file still reads the whole of it.
    with names.open() as opened:
        read(folder)
        assert names.stat().st_ino != before
        assert opened.read().split() == ["names:", "-", "cell", "-", "plate"]
