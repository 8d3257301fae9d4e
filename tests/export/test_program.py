"""Programs of torch.export: dynamic sizes, and no need of this package."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from detectron2.modeling import build_model

from lite_focus_detr import ops
from lite_focus_detr.export import export_program
from lite_focus_detr.export.detector import ImageInput, TensorDetector

from .conftest import QUICK_CONFIGS, make_config, make_model

WITHOUT_THE_PACKAGE = """
import sys, torch
library, program, images, output = sys.argv[1:]
torch.ops.load_library(library)
run = torch.export.load(program).module()
with torch.no_grad():
    torch.save(tuple(run(torch.load(images))), output)
assert "lite_focus_detr" not in sys.modules and "detectron2" not in sys.modules
"""


@pytest.mark.parametrize("name", QUICK_CONFIGS)
@pytest.mark.parametrize("shape", [(1, 3, 131, 200), (3, 3, 128, 128)])
def test_sizes_are_dynamic(trace, name, shape):
    detector, program, _ = trace(name)
    images = torch.rand(shape, generator=torch.Generator().manual_seed(1)) * 255
    with torch.no_grad():
        found, expected = program.module()(images), detector(images)
    for x, y in zip(found, expected, strict=True):
        torch.testing.assert_close(x, y, rtol=0, atol=1e-5)


def test_shortcuts_and_neighbourhoods_are_part_of_a_program():
    options = ("MODEL.SPARSE.SHORTCUTS", "True", "MODEL.SPARSE.SCORER_KERNEL_SIZE", "3")
    model = make_model(make_config("sparse_dino_small", *options))
    program = export_program(model).module()
    images = torch.rand(1, 3, 131, 200, generator=torch.Generator().manual_seed(1)) * 255
    with torch.no_grad():
        found, expected = program(images), TensorDetector(model, ImageInput())(images)
    for x, y in zip(found, expected, strict=True):
        torch.testing.assert_close(x, y, rtol=0, atol=1e-5)


def test_a_program_runs_without_the_package(trace, tmp_path):
    detector, program, _ = trace("dino_shapes")
    images = torch.rand(1, 3, 140, 150, generator=torch.Generator().manual_seed(2)) * 255
    files = [str(tmp_path / name) for name in ("program.pt2", "images.pt", "output.pt")]
    torch.export.save(program, files[0])
    torch.save(images, files[1])
    (library,) = Path(ops.__file__).parent.glob("_cpu*.so")
    command = [sys.executable, "-c", WITHOUT_THE_PACKAGE, str(library), *files]
    subprocess.run(command, check=True, cwd=tmp_path)
    with torch.no_grad():
        expected = detector(images)
    for x, y in zip(torch.load(files[2]), expected, strict=True):
        torch.testing.assert_close(x, y, rtol=0, atol=1e-5)


def test_the_mode_of_the_model_stays(trace):
    detector, _, _ = trace("dino_shapes")
    assert not detector.model.training
    assert torch.backends.mha.get_fastpath_enabled()


@pytest.mark.parametrize("name", ["build_timm_backbone", "build_swin_backbone"])
def test_swin_transformers_are_refused(tiny_config, name):
    maps = ["res3", "res5"] if name == "build_timm_backbone" else ["p1", "p3"]
    cfg = tiny_config("dino", IN_FEATURES=maps)
    cfg.MODEL.BACKBONE.NAME, cfg.MODEL.TIMM.NAME = name, "swin_tiny_patch4_window7_224"
    cfg.MODEL.SWIN.EMBED_DIM, cfg.MODEL.SWIN.NUM_HEADS = 12, [1, 2, 4, 8]
    with pytest.raises(
        ValueError, match=r"the backbone has a \w*Swin\w*, which cannot be exported"
    ):
        export_program(build_model(cfg))
