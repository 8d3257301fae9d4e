import pytest
import torch

from lite_focus_detr.converters.draft import Draft


def first_part(key):
    return key.split(".")[0]


def test_equal_tensors_with_one_name_are_aliases_of_the_first():
    draft = Draft.renamed({"a.1": torch.ones(2), "a.2": torch.ones(2)}, first_part)

    assert draft.used() == {"a.1": ("a",)}
    assert draft.unused == {"a.2": "alias of a.1"}


@pytest.mark.parametrize("other", [torch.zeros(2), torch.ones(3)])
def test_different_tensors_with_one_name_are_an_error_that_names_both(other):
    with pytest.raises(ValueError, match=r"a\.1 and a\.2 .*differ"):
        Draft.renamed({"a.1": torch.ones(2), "a.2": other}, first_part)


def test_dropped_tensor_is_reported_under_the_key_of_the_file():
    draft = Draft.renamed({"a.1": torch.ones(2)}, first_part)

    draft.move("a", "b")
    draft.drop("b", "no use")

    assert draft.tensors == {}
    assert draft.unused == {"a.1": "no use"}
