"""Layers of oneDNN with weights in the layout that its kernels read: for inference on the CPU.

Outside of compiled graphs PyTorch keeps weights as they are saved and lays them out anew in every
call. The operators here are those that TorchInductor calls.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

#: Tokens of a feed-forward part at a time: hidden channels of so many stay in a core's cache.
CHUNK = 1024


class PackedLinear(nn.Module):
    """A linear layer, optionally with the ReLU behind it, in single precision or bfloat16."""

    weight: Tensor
    bias: Tensor

    def __init__(self, linear: nn.Linear, dtype: torch.dtype, *, relu: bool = False) -> None:
        """Pack the weights of a layer.

        Args:
            linear: from C to D channels, with a bias.
            dtype: of weights and results; inputs are converted.
            relu: set negative results to zero.
        """
        super().__init__()
        self.dtype = dtype
        self.activation = "relu" if relu else "none"
        self.out_features = linear.out_features
        weight = linear.weight.detach().to(dtype).contiguous()
        packed = torch.ops.mkldnn._reorder_linear_weight(weight, CHUNK)
        self.register_buffer("weight", packed, persistent=False)
        self.register_buffer("bias", linear.bias.detach().to(dtype), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., C) to (..., D)."""
        if x.numel() == 0:
            return x.new_zeros((*x.shape[:-1], self.out_features), dtype=self.dtype)
        x = x.to(self.dtype)
        result: Tensor = torch.ops.mkldnn._linear_pointwise(
            x, self.weight, self.bias, self.activation, [], ""
        )
        return result


class PackedFeedForward(nn.Module):
    """Both layers of a feed-forward part, for as many tokens at a time as the cache holds."""

    def __init__(
        self, first: nn.Linear, activation: nn.Module, second: nn.Linear, dtype: torch.dtype
    ) -> None:
        """Pack the weights of the layers.

        Args:
            first: from C channels to the hidden ones.
            activation: of these.
            second: back to C.
            dtype: see :class:`PackedLinear`.
        """
        super().__init__()
        fused = isinstance(activation, nn.ReLU)
        self.first = PackedLinear(first, dtype, relu=fused)
        self.activation = nn.Identity() if fused else activation
        self.second = PackedLinear(second, dtype)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C) to (N, C)."""
        result = x.new_empty(x.shape, dtype=self.second.dtype)
        for start in range(0, len(x), CHUNK):
            part = slice(start, start + CHUNK)
            result[part] = self.second(self.activation(self.first(x[part])))
        return result


class QuantizedFeedForward(nn.Module):
    """Both layers of a feed-forward part with products of 8-bit integers.

    Weights have one scale for each output channel; inputs are rounded by their range, anew for as
    many tokens at a time as :class:`PackedFeedForward` takes. Sums and results are float32.
    """

    def __init__(self, first: nn.Linear, activation: nn.Module, second: nn.Linear) -> None:
        """Quantise the weights of the layers.

        Args:
            first: from C channels to the hidden ones.
            activation: of these.
            second: back to C.
        """
        super().__init__()
        self.first, self.second = (_prepack_int8(layer) for layer in (first, second))
        # Inputs have 7 bits: without VNNI a processor adds products in 16 bits, which may overflow.
        # QNNPACK adds them in 32 and knows 8 bits only.
        self.reduce_range = torch.backends.quantized.engine != "qnnpack"
        self.fused = isinstance(activation, nn.ReLU)
        self.activation = nn.Identity() if self.fused else activation

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C) to (N, C)."""
        linear = torch.ops.quantized.linear_dynamic
        first = torch.ops.quantized.linear_relu_dynamic if self.fused else linear
        result = torch.empty_like(x, dtype=torch.float32)
        for start in range(0, len(x), CHUNK):
            part = slice(start, start + CHUNK)
            hidden = self.activation(first(x[part].float(), self.first, self.reduce_range))
            result[part] = linear(hidden, self.second, self.reduce_range)
        return result


def _prepack_int8(linear: nn.Linear) -> Any:
    """Weights for the dynamic operators of torch.ops.quantized, symmetric in each row."""
    weight = linear.weight.detach()
    scales = weight.abs().amax(1).clamp(min=torch.finfo(weight.dtype).tiny) / 127
    zero_points = torch.zeros_like(scales, dtype=torch.int64)
    quantized = torch.quantize_per_channel(weight, scales, zero_points, 0, torch.qint8)
    return torch.ops.quantized.linear_prepack(quantized, linear.bias.detach())
