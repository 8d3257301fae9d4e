"""Pictures of kept tokens."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from detectron2.modeling import build_model
from detectron2.structures import BoxMode
from matplotlib.figure import Figure
from PIL import Image

from lite_focus_detr.tools import visualize_tokens


@pytest.fixture
def command(small_config, tmp_path, monkeypatch):
    """Run the tool on a small detector with random weights; returns the folder of its output."""
    monkeypatch.setattr(visualize_tokens, "setup_logger", lambda **_: None)

    def run(architecture):
        small_config.MODEL.META_ARCHITECTURE = architecture
        small_config.MODEL.FOCUS.KEEP_RATIOS = [0.5]
        small_config.MODEL.SPARSE.AUX_HEADS = False
        small_config.MODEL.LITE.NUM_BLOCKS = 1
        small_config.MODEL.LITE_FOCUS.KEEP_RATIOS = [0.5]
        config_file = tmp_path / "selective.yaml"
        config_file.write_text(small_config.dump())
        weights = tmp_path / "w.pth"
        torch.save({"model": build_model(small_config).state_dict()}, weights)
        output = tmp_path / "tokens"
        arguments = ["--config-file", str(config_file), "--output", str(output)]
        arguments += ["--num-pictures", "1", "--num-images", "3", "--weights", str(weights)]
        visualize_tokens.main(arguments)
        return output

    return run


@pytest.mark.parametrize("architecture", ["FocusDETR", "SparseDETR", "LiteFocusDETR"])
def test_a_picture_and_a_table_are_written(command, architecture, capsys):
    output = command(architecture)
    assert str(output / "0000_000000_tokens.png") in capsys.readouterr().out
    assert sorted(path.name for path in output.iterdir()) == [
        "0000_000000_tokens.png",
        "selection.md",
    ]
    with Image.open(output / "0000_000000_tokens.png") as picture:
        assert min(picture.size) > 400
    table = (output / "selection.md").read_text()
    assert " small |" in table
    assert "top 10 %" in table


def test_the_drawn_image_is_that_of_the_file(command, small_config, monkeypatch):
    drawn = []

    def record(truth, image, trace, caption):
        drawn.append((truth, image, trace))
        assert caption.details == "FocusDETR, keep ratio 0.5 · 000000.png"
        return Figure()

    monkeypatch.setattr(visualize_tokens, "draw_selection", record)
    command("FocusDETR")
    ((_, image, trace),) = drawn
    root = Path(small_config.DATASETS.SHAPES.ROOT)
    (path,) = root.glob("val_*/images/000000.png")
    with Image.open(path) as expected:
        np.testing.assert_array_equal(image, np.asarray(expected.convert("RGB")))
    assert trace.tokens.image_sizes == ((48, 48),)


def test_a_misspelt_data_set_is_one_line_with_the_likely_name(small_config_file, tmp_path):
    arguments = ["--config-file", small_config_file, "--output", str(tmp_path)]
    with pytest.raises(SystemExit, match=r"'shapes_va'.*shapes_val"):
        visualize_tokens.main([*arguments, "--dataset", "shapes_va"])


def test_a_dense_model_is_refused_in_one_line(command):
    with pytest.raises(SystemExit, match="whose encoder selects tokens"):
        command("DeformableDETR")


def test_the_areas_of_objects_are_in_pixels_of_the_file(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(visualize_tokens, "trace_selection", lambda model, inputs: None)
    add = "lite_focus_detr.tools.visualize_tokens.SelectionSummary.add"
    monkeypatch.setattr(add, lambda self, trace, boxes, areas: seen.append((boxes, areas)))
    # The detector sees the file at half its size.
    inputs = {"image": torch.zeros(3, 50, 100), "height": 100, "width": 200}
    predictor = SimpleNamespace(model=None, mapper=lambda record: inputs)
    record = {"annotations": [{"bbox": [10, 20, 30, 40], "bbox_mode": BoxMode.XYWH_ABS}]}
    visualize_tokens.summarize(predictor, [record], tmp_path, "__unused", 0)
    ((boxes, areas),) = seen
    torch.testing.assert_close(boxes, torch.tensor([[0.05, 0.2, 0.2, 0.6]]))
    torch.testing.assert_close(areas, torch.tensor([1200.0]))
