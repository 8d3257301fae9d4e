"""Arguments of modules by name."""

import functools

import pytest
import torch

from lite_focus_detr.integrations import arguments


def forward(self, query, value=None, *, flag=True, scale=2.0, **kwargs):
    """With what methods of modules have."""


PARAMETERS = arguments.parameters_of(forward)


def test_parameters_are_those_that_have_a_name_and_a_place():
    assert PARAMETERS.names == ("query", "value")
    assert PARAMETERS.defaults == (None, None)


def test_a_decorated_function_has_the_parameters_of_what_it_wraps():
    @functools.wraps(forward)
    def decorated(*args, **kwargs):
        return forward(*args, **kwargs)

    assert arguments.parameters_of(decorated) == PARAMETERS


def test_arguments_are_found_by_place_and_by_name():
    assert PARAMETERS.bind((1, 2), {}) == {"query": 1, "value": 2}
    assert PARAMETERS.bind((1,), {"value": 2, "more": 3}) == {"query": 1, "value": 2, "more": 3}


def test_of_several_names_the_first_one_counts():
    assert PARAMETERS.first(("input_flatten", "value", "query")) == "value"
    assert PARAMETERS.first(("mask",)) is None


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, True),
        ({"method": "default", "scale": 2.0}, True),
        ({"method": "discrete"}, False),
        ({"scale": torch.tensor(2.0)}, False),
        ({"value": torch.zeros(2)}, True),
    ],
)
def test_parameters_that_are_not_known_must_have_their_defaults(given, expected):
    def function(value, method="default", scale=2.0):
        """With a setting."""

    assert arguments.parameters_of(function).only(("value",), given) is expected


def test_functions_that_tell_no_parameters_or_have_lists_in_them_are_not_known():
    assert arguments.parameters_of(lambda shapes=[(1, 2)]: None) is None
    assert arguments.parameters_of(3) is None


@pytest.mark.parametrize("given", [[(4, 3), (2, 1)], torch.tensor([[4, 3], [2, 1]])])
def test_shapes_are_pairs_of_numbers(given):
    assert [tuple(shape) for shape in arguments.spatial_shapes(given)] == [(4, 3), (2, 1)]
