from lite_focus_detr.converters.checkpoint_format import all_match, has_keys, rename_by


def test_rules_apply_in_order_to_what_the_ones_before_made():
    rename = rename_by(((r"^a\.", "b."), (r"^b\.(\d)", r"c\1")))

    assert rename("a.1.weight") == "c1.weight"


def test_all_match_needs_keys_and_no_stranger_among_them():
    recognises = all_match("conv|fc")

    assert recognises(["conv1", "fc.bias"])
    assert not recognises(["conv1", "head"])
    assert not recognises([])


def test_has_keys_allows_other_keys():
    assert has_keys("a", "b")(["c", "b", "a"])
    assert not has_keys("a", "b")(["a"])
