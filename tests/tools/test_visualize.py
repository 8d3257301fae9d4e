"""Pictures of a data set."""

import numpy as np
import pytest
import torch
from detectron2.modeling import build_model
from detectron2.structures import Boxes, Instances
from PIL import Image

from lite_focus_detr.tools import visualize


def test_one_picture_per_image_shows_truth_and_prediction(
    small_config, small_config_file, tmp_path
):
    weights = tmp_path / "w.pth"
    torch.save({"model": build_model(small_config).state_dict()}, weights)
    output = tmp_path / "pictures"
    arguments = ["--config-file", small_config_file, "--output", str(output), "--num-images", "2"]
    visualize.main([*arguments, "--weights", str(weights)])
    pictures = sorted(output.iterdir())
    assert [path.name for path in pictures] == ["0000_000000.png", "0001_000001.png"]
    with Image.open(pictures[0]) as picture:
        width, height = picture.size
    # 48 pixels are enlarged 14 times; two images, the gap between them, and the header above.
    assert width == 2 * 672 + 8
    assert 672 + 30 < height < 672 + 80


OPTIONS = visualize.DrawingOptions(model="DeformableDETR", threshold=0.45)


class EmptyPredictor:
    """Finds nothing."""

    def __call__(self, path):
        found = {"scores": torch.zeros(0), "pred_classes": torch.zeros(0, dtype=torch.int64)}
        return Instances((40, 60), pred_boxes=Boxes(torch.zeros(0, 4)), **found)


def test_images_of_one_name_in_two_folders_give_two_pictures(tmp_path):
    records = []
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        path = tmp_path / folder / "0001.png"
        Image.fromarray(np.zeros((40, 60, 3), np.uint8)).save(path)
        records.append({"file_name": str(path), "height": 40, "width": 60, "annotations": []})
    output = tmp_path / "pictures"
    visualize.draw(EmptyPredictor(), records, output, "__unused", OPTIONS)
    assert sorted(path.name for path in output.iterdir()) == ["0000_0001.png", "0001_0001.png"]


class ColourPredictor:
    """Finds one sure and one unsure object."""

    def __call__(self, path):
        boxes = Boxes(torch.tensor([[5.0, 5.0, 25.0, 35.0], [40.0, 5.0, 55.0, 35.0]]))
        found = {"scores": torch.tensor([0.5, 0.4]), "pred_classes": torch.tensor([0, 0])}
        return Instances((40, 60), pred_boxes=boxes, **found)


def test_both_halves_have_the_colours_of_the_image_and_only_sure_predictions(tmp_path):
    Image.new("RGB", (60, 40), (200, 30, 90)).save(tmp_path / "a.png")
    record = {"file_name": str(tmp_path / "a.png"), "height": 40, "width": 60, "annotations": []}
    visualize.draw(ColourPredictor(), [record], tmp_path / "out", "__unused", OPTIONS)
    with Image.open(tmp_path / "out/0000_a.png") as picture:
        pixels = np.asarray(picture)
    # 60 pixels are enlarged 11 times; the header is above.
    header, pixels = pixels[: -40 * 11], pixels[-40 * 11 :]
    assert (header == 255).all(-1).mean() > 0.7
    height, width = pixels.shape[:2]
    changed = (pixels != [200, 30, 90]).any(-1)
    truth, prediction = changed[:, : (width - 8) // 2], changed[:, (width + 8) // 2 :]
    assert not truth.any()
    # The first box is drawn, the second is not.
    assert prediction[height // 2, : width // 4].any()
    assert not prediction[height // 2, width // 4 + 20 :].any()


def test_the_paths_and_no_more_than_the_best_are_given(tmp_path, caplog):
    Image.new("RGB", (60, 40), (200, 30, 90)).save(tmp_path / "a.png")
    record = {"file_name": str(tmp_path / "a.png"), "height": 40, "width": 60, "annotations": []}
    pictures = []
    for top in (1, None):
        options = visualize.DrawingOptions(model="DeformableDETR", threshold=0.1, top=top)
        with caplog.at_level("INFO", "lite_focus_detr"):
            visualize.draw(ColourPredictor(), [record], tmp_path / "out", "__unused", options)
        with Image.open(tmp_path / "out/0000_a.png") as picture:
            pictures.append(np.asarray(picture)[-40 * 11 :, -60 * 11 :])
    assert str(tmp_path / "out" / "0000_a.png") in caplog.text
    # The second object is at the right.
    assert (pictures[0][:, 400:] == [200, 30, 90]).all()
    assert (pictures[1][:, 400:] != [200, 30, 90]).any()


def test_a_misspelt_data_set_is_one_line_with_the_likely_name(small_config_file, tmp_path):
    arguments = ["--config-file", small_config_file, "--output", str(tmp_path / "pictures")]
    with pytest.raises(SystemExit) as exit_info:
        visualize.main([*arguments, "--dataset", "shapes_vall"])
    message = str(exit_info.value.code)
    assert "\n" not in message
    assert "'shapes_vall'" in message
    assert "did you mean shapes_val" in message
