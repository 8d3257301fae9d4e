import numpy as np
import pytest
import torch
from detectron2.modeling import build_model
from matplotlib.figure import Figure
from PIL import Image
from torchvision.ops import box_iou

from lite_focus_detr.tools import visualize_attention


@pytest.fixture
def inputs(small_config, small_config_file, tmp_path):
    """Arguments for an image and a model with random weights."""
    image = tmp_path / "image.png"
    noise = np.random.RandomState(0).randint(0, 255, (48, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(image)
    weights = tmp_path / "model.pth"
    torch.save({"model": build_model(small_config).state_dict()}, weights)
    return [str(image), "--config-file", small_config_file, "--weights", str(weights)]


@pytest.mark.parametrize("part", ["encoder", "decoder"])
@pytest.mark.parametrize("points", [[], ["--point", "10", "20", "--point", "50", "30"]])
def test_one_command_writes_the_picture(inputs, tmp_path, part, points):
    picture = tmp_path / "points.png"
    visualize_attention.main([*inputs, "--output", str(picture), "--attention", part, *points])
    assert Image.open(picture).width > 1000


def test_the_path_is_printed(inputs, tmp_path, capsys):
    picture = tmp_path / "points.png"
    visualize_attention.main([*inputs, "--output", str(picture)])
    assert capsys.readouterr().out.strip() == str(picture)


def test_without_points_the_best_boxes_that_do_not_overlap_are_shown(inputs, tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(
        visualize_attention,
        "draw_samples",
        lambda image, models, caption: drawn.append(models) or Figure(),
    )
    visualize_attention.main([*inputs, "--output", str(tmp_path / "x.png"), "--num-queries", "2"])
    ((model,),) = drawn
    assert len(model.samples.queries) == len(model.boxes) <= 2
    if len(model.boxes) == 2:
        assert box_iou(*model.boxes.split(1)).item() <= 0.5


def test_models_are_drawn_below_each_other(inputs, tmp_path):
    heights = []
    for arguments in (inputs, [*inputs, *inputs[1:]]):
        picture = tmp_path / "points.png"
        visualize_attention.main([*arguments, "--output", str(picture)])
        heights.append(Image.open(picture).height)
    # 100 pixels per inch: 3.4 inches times 48 / 64 and the titles for each model.
    assert heights[1] - heights[0] == pytest.approx(255 + 55, abs=1)


def test_a_layer_that_does_not_exist_ends_with_one_line(inputs, tmp_path):
    with pytest.raises(SystemExit, match=r"--layer 7: the encoder has 1 layers"):
        visualize_attention.main([*inputs, "--output", str(tmp_path / "x.png"), "--layer", "7"])


@pytest.mark.parametrize("name", ["picture.xyz", "picture"])
def test_a_format_that_cannot_be_written_ends_with_one_line(inputs, tmp_path, name):
    with pytest.raises(SystemExit, match=r"cannot write the picture .*end it with .*\.png"):
        visualize_attention.main([*inputs, "--output", str(tmp_path / name)])


def test_a_point_outside_of_the_image_ends_with_one_line(inputs, tmp_path):
    arguments = [*inputs, "--output", str(tmp_path / "x.png"), "--point", "1000", "10"]
    with pytest.raises(SystemExit, match="--point 1000 10 is outside of the 64x48 image"):
        visualize_attention.main(arguments)


def test_the_folder_of_the_picture_is_created(inputs, tmp_path):
    picture = tmp_path / "new" / "folder" / "points.png"
    visualize_attention.main([*inputs, "--output", str(picture)])
    assert picture.is_file()


def test_configurations_are_as_many_as_weights(inputs, tmp_path):
    extra = ["--config-file", inputs[2]]
    with pytest.raises(SystemExit, match="one name for all of --weights, or one for each"):
        visualize_attention.main([*inputs, *extra, "--output", str(tmp_path / "x.png")])


def test_a_point_is_a_pixel_of_the_image(inputs, tmp_path, monkeypatch):
    drawn = []

    def record(image, models, caption):
        drawn.append(models)
        return Figure()

    monkeypatch.setattr(visualize_attention, "draw_samples", record)
    arguments = [*inputs, "--output", str(tmp_path / "x.png"), "--attention", "encoder"]
    visualize_attention.main([*arguments, "--point", "10", "20"])
    ((model,),) = drawn
    samples = model.samples
    assert model.name == "DeformableDETR, encoder layer 1 of 1"
    assert model.strides == (8, 16, 32, 64)
    assert model.boxes is None
    # Of the 8 x 6 tokens of 8 pixels, the one with the centre (12, 20) is next.
    torch.testing.assert_close(samples.queries, torch.tensor([[12 / 64, 20 / 48]]))
