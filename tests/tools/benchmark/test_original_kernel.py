"""The baseline of the benchmark of a GPU: its kernels are compiled, and run in the emulation."""

import ctypes
import os
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from torch.utils import cpp_extension

from lite_focus_detr.ops import reference
from lite_focus_detr.tools.benchmark import original_kernel

EMULATION = Path(__file__).parents[2] / "ops/cuda_emulation"
SHAPES = [(5, 4), (2, 3)]
#: One block after another, as cuda_emulation.h has it; what a block shares is one of all.
PROGRAM = f"""
#include "cuda_emulation.h"
#undef __shared__
#define __shared__ static
{original_kernel.SOURCE}
cudaLaunchConfig_t configure(int blocks, int threads) {{
  cudaLaunchConfig_t config{{}};
  config.gridDim = dim3(blocks);
  config.blockDim = dim3(threads);
  return config;
}}
extern "C" int forward(const float* value, const int* levels, const float* locations,
                       const float* weights, float* output, int* sizes, int count) {{
  const auto config = configure(2, 64);
  return cudaLaunchKernelEx(&config, original_forward, value, levels, locations, weights, output,
                            sizes[0], sizes[1], sizes[2], sizes[3], sizes[4], sizes[5], count);
}}
extern "C" int backward(const float* value, const int* levels, const float* locations,
                        const float* weights, const float* grad_output, float* grad_value,
                        float* grad_locations, float* grad_weights, int* sizes, int items) {{
  const auto config = configure(items, sizes[3]);
  return cudaLaunchKernelEx(&config, original_backward, value, levels, locations, weights,
                            grad_output, grad_value, grad_locations, grad_weights, sizes[0],
                            sizes[1], sizes[2], sizes[3], sizes[4], sizes[5]);
}}
"""


@pytest.fixture(scope="module")
def emulated(tmp_path_factory):
    """The kernels as functions of the CPU."""
    compiler = shutil.which(os.environ.get("CXX", "c++"))
    toolkits = [Path(home) for home in (cpp_extension.CUDA_HOME, "/usr/local/cuda") if home]
    headers = [home / "include" for home in toolkits if (home / "include/cuda_fp16.h").exists()]
    if compiler is None or not headers:
        pytest.skip("no C++ compiler or no headers of the CUDA toolkit")
    folder = tmp_path_factory.mktemp("original_kernel")
    (folder / "kernel.cpp").write_text(PROGRAM)
    command = [compiler, "-O1", "-w", "-std=c++17", "-fPIC", "-shared", f"-I{EMULATION}"]
    command += [f"-I{headers[0]}", str(folder / "kernel.cpp"), "-o", str(folder / "kernel.so")]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return ctypes.CDLL(str(folder / "kernel.so"))


def pointers(*tensors):
    return [ctypes.c_void_p(tensor.data_ptr()) for tensor in tensors]


def test_the_baseline_computes_the_same_as_the_reference(emulated):
    generator = torch.Generator().manual_seed(0)
    batch, queries, heads, channels, points = 2, 3, 2, 8, 4
    value = torch.randn(batch, 26, heads, channels, generator=generator)
    locations = torch.randn(batch, queries, heads, 2, points, 2, generator=generator) * 0.4 + 0.5
    weights = torch.randn(batch, queries, heads, 2, points, generator=generator)
    grad_output = torch.randn(batch, queries, heads * channels, generator=generator)
    leaves = [tensor.double().requires_grad_() for tensor in (value, locations, weights)]
    expected = reference.multi_scale_deformable_attention(leaves[0], SHAPES, *leaves[1:])
    gradients = torch.autograd.grad(expected, leaves, grad_output.double())

    levels = original_kernel.level_table(SHAPES, torch.device("cpu"))
    sizes = (ctypes.c_int * 6)(26, queries, heads, channels, 2, points)
    inputs = pointers(value, levels, locations, weights)
    output = torch.empty_like(grad_output)
    assert emulated.forward(*inputs, *pointers(output), sizes, output.numel()) == 0
    torch.testing.assert_close(output.double(), expected.detach(), rtol=1e-5, atol=1e-5)
    actual = [torch.zeros_like(value), torch.empty_like(locations), torch.empty_like(weights)]
    targets = pointers(grad_output, *actual)
    assert emulated.backward(*inputs, *targets, sizes, batch * queries * heads) == 0
    for given, wanted in zip(actual, gradients, strict=True):
        torch.testing.assert_close(given.double(), wanted, rtol=1e-4, atol=1e-4)


def test_the_kernels_need_no_toolkit(monkeypatch):
    compiled = []

    def compile_kernel(source, name):
        compiled.append((name, cpp_extension.include_paths("cuda")))
        return compiled.append

    monkeypatch.setattr(cpp_extension, "CUDA_HOME", None)
    monkeypatch.setattr(torch.cuda, "_compile_kernel", compile_kernel, raising=False)
    with pytest.raises(OSError, match="CUDA_HOME"):
        cpp_extension.include_paths("cuda")
    original_kernel.compile_kernel("original_forward")
    assert [name for name, _ in compiled] == ["original_forward"]
    assert cpp_extension.CUDA_HOME is None


@pytest.mark.parametrize("name", ["original_forward", "original_backward"])
def test_the_kernels_compile_as_pytorch_does_it(name):
    utilities = pytest.importorskip("torch.cuda._utils")
    if torch.version.cuda is None or not hasattr(utilities, "_nvrtc_compile"):
        pytest.skip("this PyTorch compiles no kernels for CUDA")
    code, entry = utilities._nvrtc_compile(original_kernel.SOURCE, name, "90")
    assert entry == name
    assert code
