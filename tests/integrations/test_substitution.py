"""Modules with another forward."""

import copy
import pickle
from dataclasses import dataclass

import pytest
import torch
from torch import nn

from lite_focus_detr.integrations.substitution import (
    is_substituted,
    restore_module,
    substitute_module,
)


@dataclass(frozen=True)
class Plus:
    """Adds a number to what the module computes."""

    number: int

    def members(self, original):
        def forward(module, x):
            return original.forward(module, x) + self.number

        return {"forward": forward}


@pytest.fixture
def linear():
    module = nn.Linear(2, 3)
    substitute_module(module, Plus(7))
    return module


X = torch.ones(4, 2)


def expected(module):
    return X @ module.weight.T + module.bias + 7


def test_only_the_forward_of_the_module_is_another_one(linear):
    assert torch.allclose(linear(X), expected(linear))
    assert isinstance(linear, nn.Linear)
    assert type(linear).__name__ == "Linear"
    assert list(linear.state_dict()) == ["weight", "bias"]
    assert repr(linear) == repr(nn.Linear(2, 3))
    assert not is_substituted(nn.Linear(2, 3))


def test_restoring_gives_the_class_back(linear):
    restore_module(linear)
    assert type(linear) is nn.Linear
    with pytest.raises(RuntimeError, match="class of Linear was changed"):
        restore_module(linear)


@pytest.mark.parametrize(
    "copied", [copy.deepcopy, lambda module: pickle.loads(pickle.dumps(module))]
)
def test_copies_have_the_same_forward_and_weights_of_their_own(linear, copied):
    other = copied(linear)
    assert is_substituted(other)
    assert type(other) is type(linear)
    assert torch.equal(other.weight, linear.weight)
    other.weight.data.zero_()
    assert not torch.equal(other.weight, linear.weight)
    assert torch.allclose(other(X), expected(other))


def test_substituted_modules_run_in_a_compiled_function(linear):
    compiled = torch.compile(linear, backend="eager", fullgraph=True)
    assert torch.allclose(compiled(X), expected(linear))
