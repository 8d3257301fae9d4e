"""The classes of a data folder in the order of a detector."""

import json
from pathlib import Path

import pytest

from lite_focus_detr.data.folders import read_data_folder
from lite_focus_detr.data.folders.class_order import with_class_order


@pytest.mark.parametrize("format", ["coco", "voc"])
@pytest.mark.parametrize("names", [("plate", "cell"), ("other", "plate", "third", "cell")])
def test_boxes_keep_the_names_of_their_classes(
    format, names, write_folder, boxes_of, expected_boxes, tmp_path
):
    found = read_data_folder(write_folder(format), tmp_path)
    ordered = with_class_order(found, names, tmp_path)
    assert ordered.class_names == names
    assert boxes_of(ordered.val) == expected_boxes(["d.png"])
    content = json.loads(Path(ordered.train.json_file).read_text())
    assert [category["name"] for category in content["categories"]] == list(names)
    assert [category["id"] for category in content["categories"]] == list(range(1, len(names) + 1))
    assert ordered.train.image_root == found.train.image_root


def test_data_in_the_order_of_the_detector_is_taken_as_it_is(write_folder, tmp_path):
    found = read_data_folder(write_folder("coco"), tmp_path)
    assert with_class_order(found, ["cell", "plate"], tmp_path) is found


def test_a_class_that_the_detector_does_not_have_is_named(write_folder, tmp_path):
    found = read_data_folder(write_folder("coco"), tmp_path)
    with pytest.raises(ValueError, match="detector does not know plate: it tells apart cell, dog"):
        with_class_order(found, ["cell", "dog"], tmp_path)
