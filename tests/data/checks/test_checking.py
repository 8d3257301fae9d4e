import pytest

from lite_focus_detr import model_zoo
from lite_focus_detr.data.checks import Level, check_data, read_data


def check(path, tmp_path, config="dino_small"):
    return check_data(read_data(path, tmp_path / "cache"), model_zoo.get_config, config)


@pytest.mark.parametrize("format", ["coco", "yolo", "voc"])
def test_the_same_data_in_all_formats_has_the_same_findings(write_folder, tmp_path, format):
    checked = check(write_folder(format), tmp_path)
    assert checked.class_names == ("cell", "plate")
    assert {split.name: split.counts for split in checked.splits} == {
        "train": [2, 1],
        "val": [2, 1],
        "test": [0, 1],
    }
    found = {
        finding.text: finding.count for finding in checked.findings if finding.level > Level.NOTE
    }
    assert found == {
        "classes with less than 10 objects in train": 2,
        "classes with objects in train, but not in test: their AP is not a number": 1,
    }
    assert checked.level == Level.WARNING


def test_the_worst_finding_is_first(write_folder, tmp_path):
    folder = write_folder("coco")
    (folder / "images/b.png").unlink()
    checked = check(folder, tmp_path)
    assert checked.level == Level.ERROR
    assert checked.findings[0].text == "images of train do not exist"
    levels = [finding.level for finding in checked.findings]
    assert levels == sorted(levels, reverse=True)


def test_a_single_file_is_the_training_split_and_lacks_a_validation(write_folder, tmp_path):
    folder = write_folder("coco")
    checked = check(folder / "annotations/instances_train.json", tmp_path)
    (split,) = checked.splits
    assert (split.name, split.counts) == ("train", [2, 1])
    assert split.source.image_root == str(folder / "images")
    assert any("no validation split" in finding.text for finding in checked.findings)


def test_without_a_training_split_nothing_can_start(write_folder, tmp_path):
    checked = check(write_folder("coco", {"val": ["a.png", "b.png"]}), tmp_path)
    assert checked.findings[0].text == "no training split, only val"
    assert checked.level == Level.ERROR


def test_an_unknown_configuration_is_refused_before_images_are_opened(write_folder, tmp_path):
    def progress(checks, total):
        pytest.fail("opened")

    data = read_data(write_folder("coco"), tmp_path / "cache")
    with pytest.raises(ValueError, match="not in the model zoo"):
        check_data(data, model_zoo.get_config, "no_such_model", progress)
