"""Stand-ins for compiled extensions."""

import importlib
import sys

import pytest
import torch

from lite_focus_detr import ops
from lite_focus_detr.integrations import install_shims
from lite_focus_detr.integrations.extension_modules import EXTENSIONS


@pytest.fixture
def clean(monkeypatch, tmp_path):
    """No extension is imported, before and after; the folder is on the import path."""
    monkeypatch.syspath_prepend(str(tmp_path))
    names = [*EXTENSIONS, "groundingdino"]
    kept = {name: sys.modules.pop(name) for name in names if name in sys.modules}
    yield tmp_path
    for name in names:
        sys.modules.pop(name, None)
    sys.modules.update(kept)


@pytest.fixture
def problem():
    torch.manual_seed(0)
    shapes = torch.tensor([[4, 3], [2, 2]])
    starts = torch.tensor([0, 12])
    value = torch.randn(2, 16, 3, 4, requires_grad=True)
    locations = torch.rand(2, 5, 3, 2, 2, 2, requires_grad=True)
    weights = torch.randn(2, 5, 3, 2, 2, requires_grad=True)
    return shapes, starts, (value, locations, weights)


@pytest.mark.parametrize("name", EXTENSIONS)
def test_published_code_runs_on_a_stand_in(clean, problem, name):
    package = clean / "groundingdino"
    package.mkdir()
    (package / "__init__.py").touch()
    assert install_shims() == list(EXTENSIONS)
    scope = {}
    parent, _, last = name.rpartition(".")
    exec(f"from {parent} import {last} as MSDA" if parent else f"import {name} as MSDA", scope)
    extension = scope["MSDA"]

    class Published(torch.autograd.Function):
        @staticmethod
        def forward(ctx, value, shapes, starts, locations, weights, step):
            ctx.step = step
            ctx.save_for_backward(value, shapes, starts, locations, weights)
            return extension.ms_deform_attn_forward(value, shapes, starts, locations, weights, step)

        @staticmethod
        @torch.autograd.function.once_differentiable
        def backward(ctx, grad_output):
            value, locations, weights = extension.ms_deform_attn_backward(
                *ctx.saved_tensors, grad_output, ctx.step
            )
            return value, None, None, locations, weights, None

    shapes, starts, (value, locations, weights) = problem
    output = Published.apply(value, shapes, starts, locations, weights, 64)
    expected = ops.reference.multi_scale_deformable_attention(
        value, shapes.tolist(), locations, weights
    )
    torch.testing.assert_close(output, expected, atol=1e-6, rtol=1e-5)
    leaves = (value, locations, weights)
    torch.testing.assert_close(
        torch.autograd.grad(output.square().sum(), leaves),
        torch.autograd.grad(expected.square().sum(), leaves),
        atol=1e-4,
        rtol=1e-5,
    )


@pytest.mark.usefixtures("clean")
def test_a_stand_in_needs_no_package_around_it():
    assert install_shims() == list(EXTENSIONS)
    module = importlib.import_module("groundingdino._C")
    assert module is sys.modules["groundingdino._C"]
    assert install_shims() == []


def test_what_is_installed_stays(clean):
    package = clean / "groundingdino"
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('not to be imported')")
    (package / "_C.py").touch()
    (clean / "MultiScaleDeformableAttention.py").write_text("real = True")
    assert install_shims() == []
    assert importlib.import_module("MultiScaleDeformableAttention").real


def test_a_package_that_is_imported_already_is_looked_into(clean):
    package = clean / "groundingdino"
    package.mkdir()
    (package / "__init__.py").touch()
    importlib.import_module("groundingdino")
    assert "groundingdino._C" in install_shims()
