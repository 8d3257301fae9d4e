import csv
import json

import pytest
import torch
from detectron2.structures import Boxes, Instances

from lite_focus_detr.tools.detection_files import DetectionFiles


def found(*objects):
    """Detections (class, score, (x0, y0, x1, y1))."""
    instances = Instances((40, 60))
    instances.pred_boxes = Boxes(torch.tensor([box for *_, box in objects]).reshape(-1, 4))
    instances.scores = torch.tensor([score for _, score, _ in objects])
    instances.pred_classes = torch.tensor([label for label, *_ in objects], dtype=torch.long)
    return instances


CELL = (1, 0.5, (5.0, 6.0, 25.0, 36.0))
DISC = (0, 0.25, (0.0, 0.0, 9.0, 8.0))


def write(files, folder, kind):
    (name,) = files.write(folder, [kind])
    return (folder / name).read_text()


def test_json_has_names_and_places(tmp_path):
    files = DetectionFiles(["disc", "cell"], None)
    files.add(found(CELL), "photos/a.jpg")
    files.add(found(DISC), "clip.mp4", frame=3, seconds=0.12)
    assert json.loads(write(files, tmp_path, "json")) == [
        {
            "file_name": "photos/a.jpg",
            "category_id": 1,
            "category": "cell",
            "bbox": [5.0, 6.0, 20.0, 30.0],
            "score": 0.5,
        },
        {
            "file_name": "clip.mp4",
            "frame": 3,
            "seconds": 0.12,
            "category_id": 0,
            "category": "disc",
            "bbox": [0.0, 0.0, 9.0, 8.0],
            "score": 0.25,
        },
    ]


def test_a_table_has_a_row_for_each_detection(tmp_path):
    files = DetectionFiles(['a "quoted", name', "cell"], None)
    files.add(found(DISC, CELL), "a.jpg")
    rows = list(csv.DictReader(write(files, tmp_path, "csv").splitlines()))
    assert rows[0] == {
        "file_name": "a.jpg",
        "frame": "",
        "seconds": "",
        "category_id": "0",
        "category": 'a "quoted", name',
        "score": "0.25",
        **{"x": "0.0", "y": "0.0", "width": "9.0", "height": "8.0"},
    }
    assert [row["category"] for row in rows] == ['a "quoted", name', "cell"]


@pytest.mark.parametrize(
    ("names", "ids"),
    [
        (["000000000139.jpg", "x/000000000285.jpg"], [139, 285]),
        (["a.jpg", "7.jpg"], [1, 2]),
        (["x/7.jpg", "y/7.jpg"], [1, 2]),
    ],
)
def test_results_for_coco_have_its_numbers(tmp_path, names, ids):
    files = DetectionFiles(None, [4, 17])
    for name in names:
        files.add(found(CELL), name)
    results = json.loads(write(files, tmp_path, "coco"))
    assert [result["image_id"] for result in results] == ids
    assert results[0] == {
        "image_id": ids[0],
        "file_name": names[0],
        "category_id": 17,
        "bbox": [5.0, 6.0, 20.0, 30.0],
        "score": 0.5,
    }


def test_without_known_numbers_classes_count_from_1_and_frames_are_images(tmp_path):
    files = DetectionFiles(None, None)
    for frame in range(2):
        files.add(found(CELL), "5.mp4", frame=frame, seconds=0.0)
    results = json.loads(write(files, tmp_path, "coco"))
    assert [result["image_id"] for result in results] == [1, 2]
    assert {result["category_id"] for result in results} == {2}


def test_pycocotools_reads_the_results(tmp_path):
    from pycocotools.coco import COCO

    files = DetectionFiles(None, None)
    files.add(found(CELL, DISC), "1.jpg")
    files.add(found(), "2.jpg")
    files.write(tmp_path, ["coco"])
    coco = COCO()
    coco.dataset = {
        "images": [{"id": 1}, {"id": 2}],
        "categories": [{"id": 1}, {"id": 2}],
        "annotations": [],
    }
    coco.createIndex()
    loaded = coco.loadRes(str(tmp_path / "predictions_coco.json"))
    assert len(loaded.getAnnIds(imgIds=[1])) == 2
    assert loaded.getAnnIds(imgIds=[2]) == []
