"""The example in C++ runs a package of AOTInductor."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from lite_focus_detr import ops
from lite_focus_detr.export import ImageInput, export_program
from lite_focus_detr.export.detector import TensorDetector

from .conftest import make_model

FOLDER = Path(__file__).resolve().parents[2] / "examples/cpp"
MISSING = [name for name in ("make", "g++") if shutil.which(name) is None]
pytestmark = [
    pytest.mark.skipif(bool(MISSING), reason=f"not installed: {' '.join(MISSING)}"),
    pytest.mark.skipif(ops.backend("cpu") == "reference", reason="the kernels are not compiled"),
]
#: Without vector instructions and optimisation, which take the compiler a minute.
QUICK = {"cpp.simdlen": 0, "aot_inductor.debug_compile": True}


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    path = tmp_path_factory.mktemp("cpp") / "detect"
    options = [
        f"PYTHON={sys.executable}",
        f"OUTPUT={path}",
        "CXX=g++",
        "CXXFLAGS=-O0 -Wall -Werror",
    ]
    subprocess.run(["make", "-C", FOLDER, *options], check=True, timeout=300)
    return path


@pytest.fixture(scope="module")
def library():
    (path,) = Path(ops.__file__).parent.glob("_cpu*.so")
    return path


def run(*arguments):
    return subprocess.run(arguments, capture_output=True, text=True, timeout=60)


def test_it_prints_what_the_detector_finds(tiny_config, program, library, tmp_path):
    sizes = {"ENCODER.NUM_LAYERS": 1, "DECODER.NUM_LAYERS": 1}
    detector = TensorDetector(make_model(tiny_config(**sizes)), ImageInput())
    package, file = str(tmp_path / "detector.pt2"), tmp_path / "image.rgb"
    exported = export_program(detector.model)
    torch._inductor.aoti_compile_and_package(exported, package_path=package, inductor_configs=QUICK)
    random = torch.Generator().manual_seed(0)
    # Sides of pooled maps are even and odd in turn.
    for height, width in ((150, 170), (192, 257)):
        pixels = torch.randint(256, (height, width, 3), dtype=torch.uint8, generator=random)
        file.write_bytes(pixels.numpy().tobytes())
        done = run(program, library, package, str(height), str(width), file)
        assert done.returncode == 0, done.stderr
        with torch.no_grad():
            boxes, scores, labels, *_ = detector(pixels.permute(2, 0, 1)[None].float())
        found = torch.tensor([list(map(float, x.split())) for x in done.stdout.splitlines()])
        assert found.shape == (10, 6)
        torch.testing.assert_close(found[:, 1], scores[0, :10], rtol=0, atol=1e-4)
        assert int(found[0, 0]) == int(labels[0, 0])
        torch.testing.assert_close(found[0, 2:], boxes[0, 0], rtol=0, atol=0.05)
    # An image of another width would be read askew.
    done = run(program, library, package, str(height), str(width - 1), file)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"error: {file} holds more than these pixels\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "usage: detect"),
        (("none.pt2", "128", "0"), "0 is no number of pixels"),
        (("none.pt2", "128", "128"), "cannot read none.pt2"),
    ],
)
def test_mistakes_are_one_line(program, library, arguments, message):
    done = run(program, library, *arguments)
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert message in done.stderr
