"""Detection in images of one's own."""

import json

import numpy as np
import pytest
import torch
from detectron2.modeling import build_model
from detectron2.structures import Boxes, Instances
from PIL import Image

from lite_focus_detr.tools import demo


class FixedPredictor:
    """Finds one sure and one unsure object in every image."""

    def __call__(self, path):
        instances = Instances((40, 60))
        instances.pred_boxes = Boxes(torch.tensor([[5.0, 6.0, 25.0, 36.0], [0.0, 0.0, 9.0, 9.0]]))
        instances.scores = torch.tensor([0.9, 0.2])
        instances.pred_classes = torch.tensor([2, 0])
        return instances


@pytest.fixture
def images(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    for name in ("b.png", "a.jpg"):
        Image.fromarray(np.zeros((40, 60, 3), np.uint8)).save(folder / name)
    (folder / "notes.txt").write_text("no image")
    return folder


def test_folders_give_their_images_in_order(images):
    (images / "c.PNG").write_bytes((images / "b.png").read_bytes())  # As cameras name them.
    assert [p.name for p in demo.find_images([str(images)])] == ["a.jpg", "b.png", "c.PNG"]


@pytest.mark.parametrize("path", ["missing", "empty"])
def test_no_images_are_an_error(tmp_path, path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=path):
        demo.find_images([str(tmp_path / path)])


def test_pictures_and_predictions_are_written(images, tmp_path):
    metadata = {"thing_classes": ["rectangle", "ellipse", "triangle"]}
    paths = demo.find_images([str(images)])
    assert demo.detect(FixedPredictor(), paths, tmp_path / "out", metadata, 0.5) == 0
    assert len(list((tmp_path / "out").glob("*.png"))) == 2
    predictions = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert predictions == [
        {
            "file_name": str(path),
            "category_id": 2,
            "category": "triangle",
            "bbox": [5.0, 6.0, 20.0, 30.0],
            "score": pytest.approx(0.9),
        }
        for path in paths
    ]


def test_the_picture_has_the_colours_of_the_image(tmp_path):
    Image.new("RGB", (60, 40), (200, 30, 90)).save(tmp_path / "a.png")
    demo.detect(FixedPredictor(), [tmp_path / "a.png"], tmp_path / "out", {}, 0.5)
    (picture,) = (tmp_path / "out").glob("*.png")
    # The lower right corner is outside of the box.
    assert np.asarray(Image.open(picture))[-5, -5].tolist() == [200, 30, 90]


def test_an_unreadable_image_is_counted_and_the_others_are_done(images, tmp_path, caplog):
    (images / "c.png").write_bytes(b"no image")
    paths = demo.find_images([str(images)])
    assert demo.detect(FixedPredictor(), paths, tmp_path / "out", {}, 0.5) == 1
    assert len(list((tmp_path / "out").glob("*.png"))) == 2
    assert "c.png" in caplog.text


def test_a_mistake_is_one_line_and_an_exit_code(tmp_path, capsys):
    arguments = ["--config-file", "/no/such.yaml", "--input", str(tmp_path), "--output", "x"]
    with pytest.raises(SystemExit) as exit_info:
        demo.main(arguments)
    assert "/no/such.yaml" in str(exit_info.value.code)


@pytest.mark.parametrize("broken", [False, True])
def test_the_exit_code_says_whether_all_images_could_be_read(
    small_config, small_config_file, images, tmp_path, broken
):
    if broken:
        (images / "c.png").write_bytes(b"no image")
    torch.save({"model": build_model(small_config).state_dict()}, tmp_path / "w.pth")
    arguments = ["--config-file", small_config_file, "--weights", str(tmp_path / "w.pth")]
    code = demo.main([*arguments, "--input", str(images), "--output", str(tmp_path / "out")])
    assert code == int(broken)


@pytest.mark.parametrize(
    ("text", "seconds"), [("300ms", 0.3), ("0.3s", 0.3), ("2s", 2.0), (" .5s ", 0.5)]
)
def test_a_latency_has_a_unit(text, seconds):
    assert demo.parse_latency(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["300", "fast", "0ms", "-1s", "3m"])
def test_a_latency_without_a_unit_is_explained(text, capsys):
    arguments = ["--config-file", "x", "--input", "y", "--output", "z", "--latency", text]
    with pytest.raises(SystemExit):
        demo.main([*arguments[:-2], f"--latency={text}"])
    assert "is no time such as 300ms or 0.3s" in capsys.readouterr().err


class BudgetPredictor:
    """Takes as many seconds as its encoder keeps of the tokens."""

    def __init__(self, clock):
        self.clock = clock
        self.model = self

    def set_budget(self, keep_ratio):
        self.keep_ratio = keep_ratio

    def __call__(self, path):
        self.clock[0] += self.keep_ratio


@pytest.mark.parametrize(
    ("limit", "keep_ratio", "too_slow"), [(0.45, 0.4, False), (0.01, 0.05, True)]
)
def test_the_budget_follows_the_latency(monkeypatch, caplog, limit, keep_ratio, too_slow):
    clock = [0.0]
    monkeypatch.setattr("time.perf_counter", lambda: clock[0])
    predictor = BudgetPredictor(clock)
    demo.keep_within(predictor, "image.png", limit)
    assert predictor.keep_ratio == keep_ratio
    assert ("No keep ratio takes at most" in caplog.text) == too_slow


def test_an_image_that_cannot_be_timed_is_an_error_of_the_user():
    class Unreadable(BudgetPredictor):
        def __call__(self, path):
            raise RuntimeError(f"{path} cannot be read")

    with pytest.raises(ValueError, match=r"--latency: image.png cannot be read"):
        demo.keep_within(Unreadable([0.0]), "image.png", 1.0)
