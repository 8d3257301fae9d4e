import json

import pytest

from lite_focus_detr.data.checks import Level
from lite_focus_detr.data.checks.splits import read_split
from lite_focus_detr.data.folders import AnnotatedImages

GOOD = (0, (10, 10, 20, 20))


def texts(findings):
    return {finding.text: (finding.level, finding.count, finding.examples) for finding in findings}


def test_objects_are_counted_by_class_and_image(make_split):
    split, findings = make_split("train", [[GOOD, GOOD, (1, (0, 0, 5, 5))], [GOOD]])
    assert split.counts == [3, 1]
    assert {image: len(own) for image, own in split.objects.items()} == {1: 3, 2: 1}
    assert findings == []


@pytest.mark.parametrize(
    ("box", "reason"),
    [
        ((10, 10, 0, 5), "zero or negative size"),
        ((10, 10, -4, 5), "zero or negative size"),
        ((200, 10, 5, 5), "outside of the image"),
        ((float("nan"), 10, 5, 5), "not finite"),
        ((0, 0, 5000, 5), "10 times larger than the image"),
    ],
)
def test_boxes_that_training_ignores_are_named(make_split, box, reason):
    split, findings = make_split("train", [[GOOD, (1, box)]])
    ((text, (level, count, examples)),) = texts(findings).items()
    assert text.startswith("ignored in train: box ")
    assert reason in text
    assert (level, count, examples) == (Level.WARNING, 1, ("annotation 2 of train1.png",))
    assert split.counts == [1, 0]


def test_what_is_filled_in_is_noted(make_split, tmp_path):
    make_split("train", [[GOOD]])
    path = tmp_path / "train.json"
    content = json.loads(path.read_text())
    del content["annotations"][0]["area"]
    path.write_text(json.dumps(content))
    _, findings = read_split("train", AnnotatedImages(str(path), str(tmp_path)))
    ((text, (level, count, _)),) = texts(findings).items()
    assert text == "no valid 'area' in train, taken as the area of the box"
    assert (level, count) == (Level.NOTE, 1)


def test_boxes_over_the_border_and_images_without_objects_are_noted(make_split):
    # The second box ends a pixel outside, as in files that count from 1.
    _, findings = make_split("val", [[(0, (90, 10, 20, 20)), (0, (0, 0, 101, 81))], []])
    found = texts(findings)
    (border,) = [key for key in found if "border" in key]
    assert found[border] == (Level.NOTE, 1, ("annotation 1",))
    assert found["images of val without objects"] == (Level.NOTE, 1, ("val2.png",))


def test_crowds_are_no_objects(make_split, tmp_path):
    make_split("train", [[GOOD, GOOD]])
    path = tmp_path / "train.json"
    content = json.loads(path.read_text())
    content["annotations"][0]["iscrowd"] = 1
    path.write_text(json.dumps(content))
    split, _ = read_split("train", AnnotatedImages(str(path), str(tmp_path)))
    assert split.counts == [1, 0]
