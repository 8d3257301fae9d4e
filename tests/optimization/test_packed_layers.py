import pytest
import torch
from torch import nn

from lite_focus_detr.optimization.packed_layers import (
    CHUNK,
    PackedFeedForward,
    PackedLinear,
    QuantizedFeedForward,
)

needs_bfloat16 = pytest.mark.skipif(
    not torch.ops.mkldnn._is_mkldnn_bf16_supported(), reason="the processor has no bfloat16"
)


@pytest.mark.parametrize("shape", [(1, 5, 24), (3, 24), (2, 0, 24), (0, 24)])
def test_a_packed_layer_is_the_formula_of_its_weights(shape):
    layer = nn.Linear(24, 40)
    x = torch.randn(shape)
    expected = x.double() @ layer.weight.double().t() + layer.bias.double()
    packed = PackedLinear(layer, torch.float32)
    torch.testing.assert_close(packed(x).double(), expected, rtol=0, atol=1e-5)
    rectified = PackedLinear(layer, torch.float32, relu=True)
    torch.testing.assert_close(rectified(x).double(), expected.clamp(min=0), rtol=0, atol=1e-5)


def test_a_packed_layer_takes_rows_that_lie_apart():
    layer = nn.Linear(24, 40)
    x = torch.randn(2, 9, 24)[:, 2:7]
    packed = PackedLinear(layer, torch.float32)
    torch.testing.assert_close(packed(x), layer(x), rtol=0, atol=1e-5)


@needs_bfloat16
def test_a_packed_layer_in_half_precision_rounds_its_weights_and_results():
    layer, x = nn.Linear(64, 32), torch.randn(7, 64)
    packed = PackedLinear(layer, torch.bfloat16)(x)
    assert packed.dtype == torch.bfloat16
    rounded = x.bfloat16().double() @ layer.weight.bfloat16().double().t()
    expected = rounded + layer.bias.bfloat16().double()
    # Results have 8 significant bits.
    torch.testing.assert_close(packed.double(), expected, rtol=2**-8, atol=2**-9)


@pytest.mark.parametrize("length", [0, 1, CHUNK, CHUNK + 1, 2 * CHUNK + 3])
def test_a_feed_forward_part_is_the_same_in_chunks(length):
    first, second, x = nn.Linear(16, 48), nn.Linear(48, 16), torch.randn(length, 16)
    for activation in (nn.ReLU(inplace=True), nn.GELU()):
        expected = second(activation(first(x)))
        packed = PackedFeedForward(first, activation, second, torch.float32)
        torch.testing.assert_close(packed(x), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("length", [1, CHUNK, CHUNK + 1])
def test_integers_of_seven_bits_are_multiplied_exactly(length):
    first, second = nn.Linear(16, 32), nn.Linear(32, 16)
    random = torch.Generator().manual_seed(0)
    x = torch.randint(128, (length, 16), generator=random).float()
    # The range of every input is from 0 to 127, that of the hidden channels 127 times as much.
    x[:, 0], x[:, 1] = 0, 127
    first.weight.data = torch.eye(32, 16) * 127
    second.weight.data = torch.randint(-127, 128, (16, 32), generator=random).float()
    second.weight.data[:, 0] = 127
    first.bias.data.zero_()
    result = QuantizedFeedForward(first, nn.ReLU(), second)(x)
    expected = 127 * x.double() @ second.weight.double()[:, :16].t() + second.bias.double()
    torch.testing.assert_close(result.double(), expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize("length", [0, 5, 2 * CHUNK + 3])
def test_a_quantised_feed_forward_part_is_nearly_the_same(length):
    first, second, x = nn.Linear(16, 48), nn.Linear(48, 16), torch.randn(length, 16)
    for activation in (nn.ReLU(inplace=True), nn.GELU()):
        expected = second(activation(first(x)))
        result = QuantizedFeedForward(first, activation, second)(x)
        assert result.shape == expected.shape
        assert (result - expected).norm() <= 0.03 * expected.norm()


@pytest.mark.skipif(
    "qnnpack" not in torch.backends.quantized.supported_engines, reason="there is no QNNPACK"
)
@pytest.mark.filterwarnings("error")
def test_a_quantised_part_takes_all_bits_of_qnnpack(capfd):
    first, second, x = nn.Linear(16, 48), nn.Linear(48, 16), torch.randn(100, 16)
    before = torch.backends.quantized.engine
    torch.backends.quantized.engine = "qnnpack"
    try:
        result = QuantizedFeedForward(first, nn.ReLU(), second)(x)
    finally:
        torch.backends.quantized.engine = before
    expected = second(first(x).relu())
    assert (result - expected).norm() <= 0.015 * expected.norm()
    assert "reduce_range" not in capfd.readouterr().err
