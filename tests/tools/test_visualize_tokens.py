"""Pictures of kept tokens."""

from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.modeling import build_model
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


@pytest.mark.parametrize("architecture", ["FocusDETR", "SparseDETR"])
def test_a_picture_and_a_table_are_written(command, architecture):
    output = command(architecture)
    assert sorted(path.name for path in output.iterdir()) == ["000000_tokens.png", "selection.md"]
    with Image.open(output / "000000_tokens.png") as picture:
        assert min(picture.size) > 400
    table = (output / "selection.md").read_text()
    assert " small |" in table
    assert "top 10 %" in table


def test_the_drawn_image_is_that_of_the_file(command, small_config, monkeypatch):
    drawn = []

    def record(truth, image, trace):
        drawn.append((truth, image, trace))
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
