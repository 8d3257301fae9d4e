import torch

from lite_focus_detr import model_zoo
from lite_focus_detr.tools.benchmark.__main__ import main
from lite_focus_detr.tools.benchmark.layer import make_workloads, table
from lite_focus_detr.tools.benchmark.measure import Measurement


def test_ratios_say_how_many_times_the_reference_takes_as_much():
    measured = {
        ("step", "cpu"): Measurement(0.2, 0.4, 1000_000),
        ("step", "reference"): Measurement(0.8, 0.6, 3000_000),
    }
    rows = table(measured, ["cpu", "reference"]).splitlines()[2:]
    assert rows[0].split() == ["step", "cpu", "200.00", "1.00", "1.00", "1.00", "1.00"]
    assert rows[1].split() == ["step", "reference", "800.00", "4.00", "1.50", "3.00", "3.00"]


def test_the_layer_is_one_dense_layer_of_the_configuration():
    workloads = make_workloads(model_zoo.get_config("lite_dino_shapes"), (64, 96), "cpu")
    memory = workloads["inference"]()
    assert memory.shape == (1, 8 * 12 + 4 * 6 + 2 * 3 + 1 * 2, 64)
    sizes = torch.stack([memory.mean(-1), memory.var(-1, correction=0)])
    # It ends with a LayerNorm.
    torch.testing.assert_close(sizes[0], torch.zeros_like(sizes[0]), atol=1e-5, rtol=0)
    torch.testing.assert_close(sizes[1], torch.ones_like(sizes[1]), atol=1e-3, rtol=0)


def test_the_command_prints_inference_and_training_step(capsys, monkeypatch):
    monkeypatch.setattr(
        "lite_focus_detr.tools.benchmark.measure.peak_memories",
        lambda make, _: dict.fromkeys(make()),
    )
    options = ["--config-file", "dino_shapes", "--image-size", "64", "96", "--rounds", "1"]
    main(["layer", *options])
    text = capsys.readouterr().out
    assert "dino_shapes, one image of 64x96" in text
    what = [line.partition("  ")[0] for line in text.splitlines()[-4::2]]
    assert what == ["inference", "training step"]
