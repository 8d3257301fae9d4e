import json
import shlex
import shutil

import numpy as np
import pytest
from PIL import Image

from lite_focus_detr.data.checks import Finding, Level
from lite_focus_detr.tools import check_dataset


@pytest.fixture
def check(tmp_path, capsys):
    """Run the command; returns its exit status, what it printed, and its JSON."""

    def check(data, *options):
        output = tmp_path / "check"
        shutil.rmtree(output, ignore_errors=True)
        status = check_dataset.main(["--data", str(data), "--output", str(output), *options])
        return status, capsys.readouterr().out, json.loads((output / "check.json").read_text())

    return check


@pytest.mark.parametrize("format", ["coco", "yolo", "voc"])
def test_a_folder_is_checked_drawn_and_ready_to_train(check, write_folder, tmp_path, format):
    folder = write_folder(format)
    status, printed, result = check(folder)
    assert status == result["exit_status"] == 1
    title = {"coco": "COCO", "yolo": "YOLO", "voc": "Pascal VOC"}[format]
    assert printed.startswith(f"{folder}: {title}, 2 classes, 5 images, 7 objects\n")
    assert len(printed.splitlines()) <= 40
    assert max(map(len, printed.splitlines()[1:-4])) <= 130
    assert result["splits"]["train"]["objects"] == {"cell": 2, "plate": 1}
    command = ["lite-focus-detr", "train", "--data", str(folder), "--config-file"]
    assert shlex.split(result["command"])[:5] == command
    assert result["command"] in printed
    with Image.open(tmp_path / "check/samples.png") as sheet:
        assert sheet.size[0] > 1000


def test_notes_alone_are_nothing_to_mend(check, write_folder, monkeypatch):
    monkeypatch.setattr("lite_focus_detr.data.checks.classes.FEW_OBJECTS", 0)
    folder = write_folder("coco", {"train": ["a.png", "b.png", "c.png"], "val": ["d.png"]})
    status, _, result = check(folder)
    assert (status, result["exit_status"]) == (0, 0)
    assert {finding["level"] for finding in result["findings"]} == {"note"}


def test_images_that_are_not_there_stop_a_training(check, write_folder):
    folder = write_folder("coco")
    (folder / "images/b.png").unlink()
    status, printed, result = check(folder)
    assert status == 2
    assert "error    images of train do not exist: 1 (" in printed
    (finding,) = [x for x in result["findings"] if x["level"] == "error"]
    assert finding["examples"] == [str(folder / "images/b.png")]


@pytest.mark.parametrize(
    ("content", "message"),
    [("{", "not valid JSON"), ('{"images": [], "categories": []}', "no list 'images'")],
)
def test_a_file_that_cannot_be_read_is_one_line_and_the_status_2(
    check, write_folder, content, message
):
    folder = write_folder("coco")
    (folder / "annotations/instances_val.json").write_text(content)
    status, printed, result = check(folder)
    assert status == 2
    (line,) = printed.splitlines()
    assert line.startswith("error ")
    assert message in line
    assert message in result["findings"][0]["text"]


def test_a_folder_that_is_no_data_set_says_what_was_looked_for(check, tmp_path):
    (tmp_path / "empty").mkdir()
    status, printed, result = check(tmp_path / "empty")
    assert status == 2
    assert "no data set that is known" in printed
    assert "YOLO" in result["findings"][0]["text"]


def test_a_single_file_gives_a_command_with_the_data_set_in_it(check, write_folder):
    path = write_folder("coco") / "annotations/instances_train.json"
    _, _, result = check(path, "--config-file", "dino_small")
    words = shlex.split(result["command"])
    options = dict(zip(words[5::2], words[6::2], strict=True))
    assert words[:5] == ["lite-focus-detr", "train", "--config-file", "dino_small", "--opts"]
    ((name, json_file, images),) = json.loads(options["DATASETS.COCO"])
    assert (name, json_file) == ("data", str(path))
    assert images == str(path.parents[1] / "images")
    assert json.loads(options["DATASETS.TRAIN"]) == ["data"]
    assert options["MODEL.DETR.NUM_CLASSES"] == "2"


def test_a_misspelt_configuration_is_one_line(check, write_folder):
    status, printed, _ = check(write_folder("coco"), "--config-file", "dino_smal")
    assert status == 2
    assert "dino_smal" in printed
    assert len(printed.splitlines()) == 1


def test_the_screen_stays_short_and_printable():
    findings = [
        Finding.of(Level.WARNING, "boxes", f"text {i}", ["\x1b[31m" + "x" * 500] * 30)
        for i in range(100)
    ]
    lines = list(check_dataset.finding_lines(findings))
    assert len(lines) == 13
    assert lines[-1] == "and 88 more kinds of findings"
    assert all(len(line) <= 130 and line.isprintable() for line in lines)


def test_many_classes_are_counted(check, write_folder, monkeypatch):
    monkeypatch.setattr(check_dataset, "SHOWN_CLASSES", 1)
    _, printed, _ = check(write_folder("coco"))
    assert "and 1 more classes" in printed


def test_the_samples_are_spread_over_both_halves(check, tmp_path, monkeypatch):
    sheets = []
    monkeypatch.setattr(
        check_dataset,
        "draw_contact_sheet",
        lambda *arguments: sheets.append(arguments) or np.zeros((1, 1, 3), np.uint8),
    )
    # The last of 16 + 15 images has a plate as well.
    for split, numbers in (("train", range(16)), ("val", range(16, 31))):
        images = [
            {"id": i, "file_name": f"{i}.png", "width": 60, "height": 40 + i} for i in numbers
        ]
        objects = [(i, 1) for i in numbers] + [(30, 2)] * (30 in numbers)
        content = {
            "images": images,
            "annotations": [
                {"id": place, "image_id": image, "category_id": label, "bbox": [2, 3, 20, 10]}
                for place, (image, label) in enumerate(objects)
            ],
            "categories": [{"id": 1, "name": "cell"}, {"id": 2, "name": "plate"}],
        }
        path = tmp_path / f"data/annotations/instances_{split}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content))
        (tmp_path / "data/images").mkdir(exist_ok=True)
        for image in images:
            size = (image["width"], image["height"])
            Image.new("RGB", size).save(tmp_path / "data/images" / image["file_name"])
    check(tmp_path / "data")
    ((cells, _, legend),) = sheets
    names = [f"{'train' if i < 16 else 'val'}: {i}.png" for i in range(0, 31, 2)]
    assert [name for name, _ in cells] == names
    assert [text for text, _ in legend] == ["cell 16", "plate 1"]
