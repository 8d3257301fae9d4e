import pytest
import torch
from detectron2.modeling import build_model
from torch import nn

from lite_focus_detr.analysis.activation_memory import measure_activation_memory


class Stub(nn.Module):
    """A detector whose saved activations are known."""

    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(nn.Conv2d(3, 5, 1), nn.ReLU())
        self.decoder = nn.Sigmoid()
        self.device = torch.device("cpu")

    def forward_outputs(self, images):
        return self.decoder(self.encoder(images.tensor))


def test_every_saved_tensor_counts_once_for_the_part_that_saves_it():
    pixels = 6 * 8 * 4  # float32
    memory = measure_activation_memory(Stub(), 6, 8)
    # The convolution saves its input, ReLU and sigmoid their outputs.
    assert memory["encoder"] == (3 + 5) * pixels
    assert memory["decoder"] == 5 * pixels
    assert memory["total"] == (3 + 5 + 5) * pixels


def test_recomputing_layers_keeps_less(tiny_config):
    kept = [
        measure_activation_memory(build_model(tiny_config(GRADIENT_CHECKPOINTING=x)), 64, 96)
        for x in (False, True)
    ]
    assert kept[1]["encoder"] < 0.5 * kept[0]["encoder"]
    assert kept[1]["backbone"] == kept[0]["backbone"]


@pytest.mark.parametrize("training", [True, False])
def test_measuring_leaves_no_trace_in_the_model(tiny_config, training):
    model = build_model(tiny_config()).train(training)
    measure_activation_memory(model, 64, 96)
    assert model.training == training
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
