"""What encoder and decoder layers have in common."""

import math

import pytest
import torch

from lite_focus_detr.modeling.transformer_layer import TransformerLayer, run_layer


class FeedForwardLayer(TransformerLayer):
    def forward(self, x):
        return x + self.feed_forward(x)


@pytest.fixture
def make_layer():
    """A layer whose 8 hidden units are all one, and whose outputs are their sum."""

    def make(dropout=0.5):
        layer = FeedForwardLayer(embed_dim=4, ffn_dim=8, dropout=dropout)
        for parameter, value in (
            (layer.linear1.weight, 0.0),
            (layer.linear1.bias, 1.0),
            (layer.linear2.weight, 1.0),
            (layer.linear2.bias, 0.0),
        ):
            torch.nn.init.constant_(parameter, value)
        return layer

    return make


def test_hidden_units_and_outputs_are_dropped_apart(make_layer):
    torch.manual_seed(0)
    output = make_layer().train().feed_forward(torch.zeros(20_000, 4))
    # Both dropouts double what they keep, so k hidden units of 8 that stay give 4 k or zero.
    shares = [(output == 4 * count).float().mean().item() for count in range(1, 9)]
    expected = [math.comb(8, count) / 2**8 / 2 for count in range(1, 9)]
    assert shares == pytest.approx(expected, abs=0.01)
    assert (output == 0).float().mean().item() == pytest.approx(0.5 + 0.5 / 2**8, abs=0.01)


def test_nothing_is_dropped_in_evaluation(make_layer):
    assert (make_layer(dropout=1.0).eval().feed_forward(torch.zeros(10, 4)) == 8).all()


@pytest.mark.parametrize(("recompute", "runs"), [(False, 1), (True, 2)])
def test_a_recomputed_layer_runs_again_in_the_backward_pass(make_layer, recompute, runs):
    layer, count = make_layer().train(), []
    layer.linear1.register_forward_hook(lambda *_: count.append(1))
    run_layer(recompute, layer, torch.zeros(2, 4, requires_grad=True)).sum().backward()
    assert len(count) == runs


def test_a_recomputed_layer_drops_the_same_again(make_layer):
    layer = make_layer().train()
    torch.nn.init.constant_(layer.linear2.bias, 1.0)
    x = torch.zeros(100, 4, requires_grad=True)
    torch.manual_seed(0)
    output = run_layer(True, layer, x)
    torch.manual_seed(1)  # As other layers draw in between.
    output.sum().backward()
    # The gradient of the output bias is 2 for each output that stays.
    assert torch.equal(layer.linear2.bias.grad, 2.0 * (output != 0).sum(0))


def test_without_gradients_nothing_is_recomputed(make_layer):
    layer, count = make_layer(), []
    layer.linear1.register_forward_hook(lambda *_: count.append(1))
    with torch.no_grad():
        run_layer(True, layer, torch.zeros(2, 4))
    assert len(count) == 1
