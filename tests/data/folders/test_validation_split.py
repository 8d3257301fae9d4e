"""The validation split that is made."""

import json
import logging
from pathlib import Path

import pytest

from lite_focus_detr.data.folders.records import AnnotatedImages
from lite_focus_detr.data.folders.validation_split import split_validation


def write(path, count):
    images = [{"id": i, "file_name": f"{i}.jpg", "width": 9, "height": 9} for i in range(count)]
    boxes = [
        {"id": i + 1, "image_id": i, "category_id": 1, "bbox": [1, 1, 2, 2]} for i in range(count)
    ]
    content = {"images": images, "annotations": boxes, "categories": [{"id": 1, "name": "cell"}]}
    path.write_text(json.dumps(content))
    return AnnotatedImages(str(path), "photos")


@pytest.mark.parametrize(("count", "val"), [(2, 1), (4, 1), (10, 2), (205, 41)])
def test_every_image_is_in_one_of_two_splits(count, val, tmp_path, caplog):
    source = write(tmp_path / "all.json", count)
    with caplog.at_level(logging.INFO):
        splits = split_validation(source, tmp_path / "cache")
    contents = [json.loads(Path(split.json_file).read_text()) for split in splits]
    ids = [{image["id"] for image in content["images"]} for content in contents]
    assert [len(part) for part in ids] == [count - val, val]
    assert not ids[0] & ids[1]
    for content, part in zip(contents, ids, strict=True):
        assert {annotation["image_id"] for annotation in content["annotations"]} == part
    assert f"{val} of the {count} images of photos are kept for it" in caplog.text


def test_one_image_cannot_be_split(tmp_path):
    source = write(tmp_path / "all.json", 1)
    with pytest.raises(ValueError, match="has one image"):
        split_validation(source, tmp_path / "cache")
