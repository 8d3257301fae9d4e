import pytest
import torch

from lite_focus_detr.converters.renamed_weights import RenamedWeights


def first_part(key):
    return key.split(".")[0]


def test_equal_tensors_with_one_name_are_aliases_of_the_first():
    weights = RenamedWeights.from_state_dict(
        {"a.1": torch.ones(2), "a.2": torch.ones(2)}, first_part
    )

    assert weights.used() == {"a.1": ("a",)}
    assert weights.unused == {"a.2": "alias of a.1"}


@pytest.mark.parametrize("other", [torch.zeros(2), torch.ones(3)])
def test_different_tensors_with_one_name_are_an_error_that_names_both(other):
    with pytest.raises(ValueError, match=r"a\.1 and a\.2 .*differ"):
        RenamedWeights.from_state_dict({"a.1": torch.ones(2), "a.2": other}, first_part)


def test_a_merged_tensor_gets_the_name_or_becomes_an_alias_of_the_one_that_has_it():
    weights = RenamedWeights.from_state_dict({"a": torch.ones(2), "b": torch.ones(2)}, str)

    weights.merge("a", "c")
    weights.merge("b", "c")

    assert weights.used() == {"a": ("c",)}
    assert weights.unused == {"b": "alias of a"}


def test_merging_different_tensors_is_an_error_with_the_given_remedy():
    weights = RenamedWeights.from_state_dict({"a": torch.ones(2), "b": torch.zeros(2)}, str)

    with pytest.raises(ValueError, match=r"b and a are two names of .* \(b\), .*; try another"):
        weights.merge("a", "b", "try another")


def test_a_second_name_has_the_same_source():
    weights = RenamedWeights.from_state_dict({"a": torch.ones(2)}, str)

    weights.copy("a", "b")

    assert weights.used() == {"a": ("a", "b")}


def test_dropped_tensor_is_reported_under_the_key_of_the_file():
    weights = RenamedWeights.from_state_dict({"a.1": torch.ones(2)}, first_part)

    weights.merge("a", "b")
    weights.drop("b", "no use")

    assert weights.tensors == {}
    assert weights.unused == {"a.1": "no use"}


def test_joined_tensor_is_the_rows_one_after_the_other_and_has_all_sources():
    weights = RenamedWeights.from_state_dict({"a": torch.zeros(1, 2), "b": torch.ones(2, 2)}, str)

    weights.join(["b", "a"], "c")

    assert weights.tensors["c"].tolist() == [[1, 1], [1, 1], [0, 0]]
    assert list(weights.tensors) == ["c"]
    assert weights.used() == {"b": ("c",), "a": ("c",)}
    weights.drop("c", "no use")
    assert weights.unused == {"a": "no use", "b": "no use"}


def test_added_zeros_have_a_size_and_no_source():
    weights = RenamedWeights.from_state_dict({"a": torch.ones(3)}, str)

    weights.add_zeros("b", like="a")

    assert weights.tensors["b"].tolist() == [0, 0, 0]
    assert weights.used() == {"a": ("a",)}
