"""Names of splits, and image files."""

import pytest

from lite_focus_detr.data.folders.layout import has_files, images_of, split_folders, split_of


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("instances_train2017", "train"),
        ("valid", "val"),
        ("Validation", "val"),
        ("my-test_set", "test"),
        ("trainval", None),
        ("train_test", None),
        ("latest", None),
        ("images", None),
    ],
)
def test_splits_are_words_of_names(name, split):
    assert split_of(name) == split


def test_folders_and_images_are_sorted(tmp_path):
    for name in ("valid/b.PNG", "valid/a.jpg", "valid/more/c.jpeg", "valid/notes.txt", "train/x"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    folders = [("train", tmp_path / "train"), ("val", tmp_path / "valid")]
    assert list(split_folders(tmp_path)) == folders
    assert list(split_folders(tmp_path / "none")) == []
    assert [path.name for path in images_of(tmp_path / "valid")] == ["a.jpg", "b.PNG"]
    assert len(images_of(tmp_path / "valid", below=True)) == 3
    assert has_files(tmp_path / "valid", ".txt")
    assert not has_files(tmp_path / "none", ".txt")
