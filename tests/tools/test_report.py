import json
import re
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.modeling import build_model
from detectron2.structures import Boxes, Instances
from PIL import Image

from lite_focus_detr.data import register_datasets
from lite_focus_detr.tools import report

BOXES = {20: [[2, 2, 20, 20], [30, 30, 12, 12]], 10: [[5, 5, 40, 30]]}


@pytest.fixture
def cells(small_config, tmp_path):
    """A data set whose ids are neither from 1 on nor sorted; its name and records."""
    for image in BOXES:
        Image.new("RGB", (64, 48), (image, 0, 0)).save(tmp_path / f"{image}.png")
    annotations = [
        {"image_id": image, "category_id": 7 if image == 20 else 3, "bbox": box, "area": 400}
        for image, boxes in BOXES.items()
        for box in boxes
    ]
    content = {
        "images": [
            {"id": image, "file_name": f"{image}.png", "width": 64, "height": 48} for image in BOXES
        ],
        "categories": [{"id": 3, "name": "<script>"}, {"id": 7, "name": "b"}],
        "annotations": [{"id": i, "iscrowd": 0, **x} for i, x in enumerate(annotations, 1)],
    }
    (tmp_path / "cells.json").write_text(json.dumps(content))
    entry = ["cells", str(tmp_path / "cells.json"), str(tmp_path)]
    small_config.DATASETS.COCO = [entry]
    register_datasets(small_config)
    yield "cells", DatasetCatalog.get("cells")
    DatasetCatalog.remove("cells")
    MetadataCatalog.remove("cells")


def instances(boxes, classes, scores):
    result = Instances((48, 64))
    corners = np.array(boxes, dtype=np.float32).reshape(-1, 4)
    corners[:, 2:] += corners[:, :2]
    result.pred_boxes = Boxes(torch.from_numpy(corners))
    result.pred_classes = torch.tensor(classes, dtype=torch.int64)
    result.scores = torch.tensor(scores)
    return result


def test_the_ground_truth_as_detections_has_an_ap_of_one(cells):
    name, records = cells
    found = [
        instances(BOXES[x["image_id"]], [a["category_id"] for a in x["annotations"]], scores)
        for x, scores in zip(records, ([0.9], [0.8, 0.7]), strict=True)
    ]
    quality = report.evaluate(name, records, found)
    assert quality.metrics["AP"] == pytest.approx(1)
    assert [x.name for x in quality.classes] == ["<script>", "b"]
    assert quality.threshold == pytest.approx(0.7)
    assert quality.images == ()


def test_the_worst_images_are_drawn_with_the_detections_of_the_threshold(cells):
    name, records = cells
    # Image 10 is right; in image 20 one of two is found.
    found = [instances(BOXES[10], [0], [0.9]), instances(BOXES[20][:1], [1], [0.8])]
    found[1] = Instances.cat([found[1], instances([[40, 0, 9, 9]], [1], [0.1])])
    quality = report.evaluate(name, records, found)
    (worst,) = report.draw_worst(quality, name, records, found, 5)
    assert worst.file_name == "20.png"
    assert (worst.errors.found, worst.errors.wrong, worst.errors.missed) == (1, 0, 1)
    assert worst.truth.shape == worst.detections.shape
    assert list(report.draw_worst(quality, name, records, found, 0)) == []


def test_a_data_set_without_an_annotation_file_is_refused():
    with pytest.raises(ValueError, match="no COCO annotation file"):
        report.evaluate("__unused", [], [])


class StandIn:
    """A detector that finds a cell and a plate everywhere."""

    def __init__(self, class_names):
        self.class_names = class_names

    def __call__(self, path):
        return instances([[0, 0, 5, 5], [9, 9, 5, 5]], [0, 1], [0.9, 0.8])


def test_classes_of_detections_are_those_of_the_data_with_the_same_names(cells):
    name, records = cells
    (first, _) = report.detect(StandIn(["b", "<script>"]), name, records)
    assert first.pred_classes.tolist() == [1, 0]
    (first, _) = report.detect(StandIn(None), name, records)
    assert first.pred_classes.tolist() == [0, 1]


@pytest.mark.parametrize(
    ("detector", "data", "order"),
    [
        (["a", "b", "c"], ["a", "b", "c"], None),
        (["a", "b", "c"], ["c", "a", "b"], [1, 2, 0]),
        (["a", "a"], ["a", "a"], None),
        (None, ["a"], None),
        (["a"], None, None),
    ],
)
def test_classes_are_matched_by_name(detector, data, order):
    assert report.match_classes(detector, data) == order


@pytest.mark.parametrize("data", [["a", "c"], ["a"], ["b", "b"]])
def test_classes_with_other_names_are_refused(data):
    with pytest.raises(ValueError, match="the classes of the weights are 'a', 'b', those of the"):
        report.match_classes(["b", "a"], data)


@pytest.fixture
def run(small_config, tmp_path, capsys):
    """Run the command for a detector with random weights; returns the page and what is printed."""

    def run(architecture, *arguments):
        small_config.MODEL.META_ARCHITECTURE = architecture
        small_config.MODEL.FOCUS.KEEP_RATIOS = [0.5]
        if "--data" in arguments:
            small_config.MODEL.DETR.NUM_CLASSES = 2
        config = tmp_path / "config.yaml"
        config.write_text(small_config.dump())
        weights = tmp_path / "model_final.pth"
        torch.save({"model": build_model(small_config).state_dict()}, weights)
        rows = [{"iteration": 19, "total_loss": 3.0}, {"iteration": 39, "total_loss": 2.0}]
        (tmp_path / "metrics.json").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
        output = tmp_path / "out" / "report.html"
        command = ["--config-file", str(config), "--weights", str(weights)]
        report.main([*command, "--output", str(output), *arguments])
        return output.read_text(), capsys.readouterr().out

    return run


def test_the_report_of_a_selective_detector_has_its_tokens(run):
    page, printed = run("FocusDETR", "--num-pictures", "1")
    assert re.fullmatch(r"AP [\d.]+, best threshold [\d.-]+\nThe report is in .*\n", printed)
    assert "FocusDETR, keep ratio 0.5, on shapes_val: 3 images" in page
    assert "Objects that keep at least one token" in page
    assert "over 3 images" in page
    assert page.count("data:image/jpeg") == 2
    assert "Loss over the iterations" in page


def test_the_report_of_a_dense_detector_says_that_there_are_none(run):
    page, _ = run("DeformableDETR", "--num-pictures", "0")
    assert "scores no tokens" in page
    assert "data:image" not in page


@pytest.mark.parametrize("format", ["coco", "yolo", "voc"])
def test_a_folder_is_evaluated_in_every_format(run, write_folder, format):
    folder = write_folder(format)
    page, _ = run("DeformableDETR", "--data", str(folder), "--split", "train")
    assert f"on {format}_train: 3 images" in page
    assert 'title="plate"' in page


def test_a_folder_has_the_classes_in_the_order_of_the_detector(run, write_folder, monkeypatch):
    names = ("plate", "cell")
    described = SimpleNamespace(class_names=names)
    monkeypatch.setattr(report, "describe_checkpoint", lambda path: described)
    run("DeformableDETR", "--data", str(write_folder("voc")), "--num-pictures", "0")
    assert MetadataCatalog.get("voc_val").thing_classes == list(names)


def test_without_the_library_one_line_says_what_to_install(run, monkeypatch):
    monkeypatch.setitem(sys.modules, "hotcoco", None)
    with pytest.raises(SystemExit, match=r"error: .*pip install 'lite-focus-detr\[report\]'"):
        run("DeformableDETR")


def test_the_report_is_silent_about_tokens_that_were_not_looked_at(run):
    page, _ = run("FocusDETR", "--num-pictures", "0", "--num-token-images", "0")
    assert "scores no tokens" not in page
    assert "Kept tokens" not in page


def test_a_page_that_cannot_be_written_is_one_line_before_any_work(run, tmp_path, monkeypatch):
    monkeypatch.setattr(report, "Predictor", None)
    (tmp_path / "out").write_text("a file")
    with pytest.raises(SystemExit, match="--output: cannot write"):
        run("DeformableDETR")
