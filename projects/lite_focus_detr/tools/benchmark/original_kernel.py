"""The algorithm of the CUDA kernels that came with Deformable DETR, as a baseline of the benchmark.

A thread has one channel of one query and head and goes through all points of it; every thread of a
head computes the same positions and weights. In the backward a block has one query and head, every
corner is added to the gradient of value by itself, and the gradients of a point are summed over the
channels by one thread. Written for this benchmark; PyTorch compiles it when it is used.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

_THREADS = 256

SOURCE = r"""
struct Corners {
  float weight[4], weight_by_x[4], weight_by_y[4];
  int token[4];  // -1 outside of the map
};

__device__ Corners find_corners(const int* level, float x, float y) {
  const int height = level[0], width = level[1];
  const float column = x * width - 0.5f, row = y * height - 0.5f;
  const int left = (int)floorf(column), top = (int)floorf(row);
  const float right_share = column - left, lower_share = row - top;
  const bool inside = column > -1 && row > -1 && column < width && row < height;
  Corners corners;
  for (int c = 0; c < 4; ++c) {
    const int i = top + c / 2, j = left + c % 2;
    const float by_x = c % 2 ? right_share : 1 - right_share;
    const float by_y = c / 2 ? lower_share : 1 - lower_share;
    const bool exists = inside && i >= 0 && j >= 0 && i < height && j < width;
    corners.weight[c] = by_x * by_y;
    corners.weight_by_x[c] = (c % 2 ? by_y : -by_y) * width;
    corners.weight_by_y[c] = (c / 2 ? by_x : -by_x) * height;
    corners.token[c] = exists ? level[2] + i * width + j : -1;
  }
  return corners;
}

// levels: height, width and first token of each.
extern "C" __global__ void original_forward(
    const float* value, const int* levels, const float* locations, const float* weights,
    float* output, int tokens, int queries, int heads, int channels, int level_count, int points,
    int count) {
  for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < count; i += gridDim.x * blockDim.x) {
    const int channel = i % channels;
    const long long item = i / channels;
    const int head = item % heads;
    const long long image = item / heads / queries;
    float sum = 0;
    for (int p = 0; p < level_count * points; ++p) {
      const long long point = item * level_count * points + p;
      const Corners corners =
          find_corners(levels + p / points * 3, locations[2 * point], locations[2 * point + 1]);
      float sample = 0;
      for (int c = 0; c < 4; ++c) {
        if (corners.token[c] >= 0) {
          const long long row = (image * tokens + corners.token[c]) * heads + head;
          sample += corners.weight[c] * value[row * channels + channel];
        }
      }
      sum += weights[point] * sample;
    }
    output[i] = sum;
  }
}

// A block of as many threads as there are channels, at most 1024.
extern "C" __global__ void original_backward(
    const float* value, const int* levels, const float* locations, const float* weights,
    const float* grad_output, float* grad_value, float* grad_locations, float* grad_weights,
    int tokens, int queries, int heads, int channels, int level_count, int points) {
  __shared__ float parts[3][1024];
  const int channel = threadIdx.x;
  const long long item = blockIdx.x;
  const int head = item % heads;
  const long long image = item / heads / queries;
  const float gradient = grad_output[item * channels + channel];
  for (int p = 0; p < level_count * points; ++p) {
    const long long point = item * level_count * points + p;
    const float weight = weights[point];
    const Corners corners =
        find_corners(levels + p / points * 3, locations[2 * point], locations[2 * point + 1]);
    float by_weight = 0, by_x = 0, by_y = 0;
    for (int c = 0; c < 4; ++c) {
      if (corners.token[c] >= 0) {
        const long long row = (image * tokens + corners.token[c]) * heads + head;
        const float product = gradient * value[row * channels + channel];
        by_weight += corners.weight[c] * product;
        by_x += corners.weight_by_x[c] * weight * product;
        by_y += corners.weight_by_y[c] * weight * product;
        atomicAdd(grad_value + row * channels + channel, weight * corners.weight[c] * gradient);
      }
    }
    parts[0][channel] = by_weight;
    parts[1][channel] = by_x;
    parts[2][channel] = by_y;
    __syncthreads();
    if (channel == 0) {
      for (int other = 1; other < channels; ++other) {
        by_weight += parts[0][other];
        by_x += parts[1][other];
        by_y += parts[2][other];
      }
      grad_weights[point] = by_weight;
      grad_locations[2 * point] = by_x;
      grad_locations[2 * point + 1] = by_y;
    }
    __syncthreads();
  }
}
"""


def compile_kernel(name: str) -> Callable[..., None]:
    """A kernel of :data:`SOURCE`, with or without a CUDA toolkit.

    Args:
        name: of the kernel.

    Returns:
        what takes its grid, block, args and stream.

    Raises:
        AttributeError: PyTorch compiles no kernels, before 2.9.
        ImportError: setuptools is missing.
    """
    from torch.utils import cpp_extension  # needs setuptools

    home = cpp_extension.CUDA_HOME
    # PyTorch wants the folder of the toolkit's headers, of which the kernels include none.
    cpp_extension.CUDA_HOME = home or str(Path(__file__).parent)
    try:
        kernel: Callable[..., None] = torch.cuda._compile_kernel(SOURCE, name)
    finally:
        cpp_extension.CUDA_HOME = home
    return kernel


_kernel = cache(compile_kernel)


class _OriginalAttention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, value: Tensor, levels: Tensor, locations: Tensor, weights: Tensor
    ) -> Tensor:
        ctx.save_for_backward(value, levels, locations, weights)
        batch, queries, heads, level_count, points, _ = locations.shape
        output = value.new_empty(batch, queries, heads * value.shape[3])
        sizes = [value.shape[1], queries, heads, value.shape[3], level_count, points]
        count = output.numel()
        blocks = ((count + _THREADS - 1) // _THREADS, 1, 1)
        arguments = [value, levels, locations, weights, output, *sizes, count]
        _launch("original_forward", blocks, _THREADS, arguments)
        return output

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
        value, levels, locations, weights = ctx.saved_tensors
        batch, queries, heads, level_count, points, _ = locations.shape
        gradients = [torch.zeros_like(value), torch.empty_like(locations)]
        gradients.append(torch.empty_like(weights))
        channels = value.shape[3]
        sizes = [value.shape[1], queries, heads, channels, level_count, points]
        inputs = [value, levels, locations, weights, grad_output.contiguous()]
        blocks = (batch * queries * heads, 1, 1)
        _launch("original_backward", blocks, channels, [*inputs, *gradients, *sizes])
        return gradients[0], None, gradients[1], gradients[2]


def _launch(
    name: str, blocks: tuple[int, int, int], threads: int, arguments: Sequence[object]
) -> None:
    _kernel(name)(
        grid=blocks,
        block=(threads, 1, 1),
        args=list(arguments),
        stream=torch.cuda.current_stream(),
    )


def level_table(shapes: Sequence[tuple[int, int]], device: torch.device) -> Tensor:
    """Height, width and first token of each level, (L, 3), as the kernels take them."""
    rows, start = [], 0
    for height, width in shapes:
        rows.append((height, width, start))
        start += height * width
    return torch.tensor(rows, dtype=torch.int32, device=device)


def original_attention(value: Tensor, levels: Tensor, locations: Tensor, weights: Tensor) -> Tensor:
    """Multi-scale deformable attention of dense float32 tensors on CUDA.

    Args:
        value: (B, S, M, D), D up to 1024.
        levels: what :func:`level_table` returns.
        locations: (B, Q, M, L, P, 2), from 0 to 1 in a map.
        weights: (B, Q, M, L, P).

    Returns:
        (B, Q, M * D)
    """
    output: Tensor = _OriginalAttention.apply(value, levels, locations, weights)  # type: ignore[no-untyped-call]
    return output
