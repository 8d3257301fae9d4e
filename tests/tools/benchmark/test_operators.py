"""The benchmark of the operators."""

import pytest
import torch

from lite_focus_detr.tools.benchmark import operators

DEVICE = torch.device("cpu")


@pytest.fixture
def small(monkeypatch):
    """Levels of a small image."""
    monkeypatch.setattr(operators, "SHAPES", ((8, 12), (4, 6), (2, 3), (1, 2)))
    monkeypatch.setattr(operators, "QUERIES", {"encoder": 128, "decoder": 20})


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.bfloat16, 2**-7), (torch.float16, 2**-9)]
)
def test_all_contenders_of_a_case_compute_the_same(dtype, tolerance):
    inputs = operators.make_inputs(60, DEVICE, dtype)
    for case in operators.make_cases(inputs, DEVICE):
        expected = results(case, "native")
        for name in case.contenders:
            for actual, wanted in zip(results(case, name), expected, strict=True):
                assert actual.dtype == wanted.dtype
                error = (actual.double() - wanted.double()).abs().max()
                assert error <= tolerance * wanted.double().abs().max(), name


def results(case, name):
    """The output or, of a case with gradients, these."""
    leaves = [tensor.detach().requires_grad_(case.backward) for tensor in case.tensors]
    output = case.contenders[name](*leaves)
    if not case.backward:
        return [output]
    return torch.autograd.grad(output, leaves, torch.ones_like(output))


def test_points_of_the_encoder_lie_around_their_own_pixel():
    inputs = operators.make_inputs(operators.QUERIES["encoder"], DEVICE, torch.float32)
    height, width = operators.SHAPES[0]
    centre = torch.tensor([1.5 / width, 2.5 / height])
    torch.testing.assert_close(inputs.references[0, 2 * width + 1, 0], centre)
    distance = (inputs.locations - inputs.references[:, :, None, :, None]).abs()
    assert distance[..., 0, :, 0].median() < 5 / width
