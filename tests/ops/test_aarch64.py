"""The kernels compiled for aarch64 and run in an emulator, against the reference.

There they have vectors of 16 bytes (NEON) and a fast path of their own, which no other test runs.
"""

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch

from lite_focus_detr.ops import reference

ROOT = Path(__file__).parents[2]
FOLDER = Path(__file__).parent / "aarch64"
COMPILER, EMULATOR = "aarch64-linux-gnu-g++", "qemu-aarch64-static"
LEVELS = ((6, 5), (4, 3), (2, 2), (3, 1), (1, 1))


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    for tool in (COMPILER, EMULATOR):
        if shutil.which(tool) is None:
            pytest.skip(
                f"{tool} is not installed (Debian: g++-aarch64-linux-gnu, qemu-user-static)"
            )
    target = tmp_path_factory.mktemp("aarch64") / "run"
    sources = [FOLDER / "run.cpp", FOLDER / "threads.cpp"]
    sources += [ROOT / "kernels" / "cpu" / f"{name}.cpp" for name in ("portable", "avx2", "avx512")]
    sources += [ROOT / "kernels" / "cpu" / f"{name}.cpp" for name in ("schedule", "phases")]
    command = [
        COMPILER,
        "-O1",
        "-std=c++17",
        "-w",
        "-static",
        f"-I{ROOT / 'kernels'}",
    ]
    subprocess.run([*command, *map(str, sources), "-o", str(target)], check=True)
    return target


def run(program, operator, sizes, shapes, tensors):
    """What the program writes."""
    numbers = np.array([operator, *sizes, *(side for shape in shapes for side in shape)], np.int64)
    data = b"".join([numbers.tobytes(), *(tensor.numpy().tobytes() for tensor in tensors)])
    done = subprocess.run([EMULATOR, str(program)], input=data, capture_output=True, check=True)
    return torch.from_numpy(np.frombuffer(done.stdout, np.float32).copy())


@pytest.mark.parametrize("name", ["multi_scale", "shared", "separate"])
@pytest.mark.parametrize(
    ("levels", "points", "channels"),
    [(4, 4, 32), (4, 4, 16), (3, 4, 32), (5, 4, 64), (1, 2, 32), (3, 3, 16), (2, 3, 30)],
)
@pytest.mark.parametrize("queries", [5, 70])
def test_results_on_aarch64_equal_the_reference(program, name, levels, points, channels, queries):
    generator = torch.Generator().manual_seed(0)
    shapes, batch, heads = LEVELS[:levels], 2, 2
    tokens = sum(height * width for height, width in shapes)

    def normal(*size):
        return torch.randn(*size, generator=generator)

    value, key = normal(batch, tokens, heads, channels), normal(batch, tokens, heads, channels)
    locations = 0.5 + 0.4 * normal(batch, queries, heads, levels, points, 2)
    weights = normal(batch, queries, heads, levels, points)
    query = normal(batch, queries, heads, channels)
    grad_output = normal(batch, queries, heads * channels)
    leaves = {
        "multi_scale": [value, locations, weights],
        "shared": [value, locations, query],
        "separate": [value, locations, query, key],
    }[name]
    exact = [leaf.double().requires_grad_() for leaf in leaves]
    if name == "multi_scale":
        expected = reference.multi_scale_deformable_attention(exact[0], shapes, *exact[1:])
    else:
        given_key = exact[3] if name == "separate" else None
        expected = reference.key_aware_deformable_attention(
            exact[2], given_key, exact[0], shapes, exact[1], 0.25
        )
    gradients = dict(
        zip(
            ["value", "locations", "weights" if name == "multi_scale" else "query", "key"],
            torch.autograd.grad(expected, exact, grad_output.double()),
            strict=False,
        )
    )
    order = ["query", "key", "value", "locations", "weights"]
    expected_gradients = [gradients[item].flatten() for item in order if item in gradients]

    first = 0 if name == "multi_scale" else 2
    sizes = (batch, tokens, queries, heads, channels, levels, points, int(name == "separate"))
    output = run(program, first, sizes, shapes, leaves)
    assert (output - expected.flatten()).abs().max() <= 1e-5 * expected.abs().max()
    actual = run(program, first + 1, sizes, shapes, [*leaves, grad_output])
    lengths = [len(gradient) for gradient in expected_gradients]
    for found, gradient in zip(actual.split(lengths), expected_gradients, strict=True):
        assert (found - gradient).abs().max() <= 1e-5 * gradient.abs().max()
