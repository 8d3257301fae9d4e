"""What a user may have meant by a misspelt name."""

from lite_focus_detr.config.suggestions import did_you_mean


def test_likely_names_are_offered_and_few_names_are_listed():
    assert did_you_mean("aple", ["apple", "pear"]) == "; did you mean apple?"
    assert did_you_mean("xyz", ["pear", "apple"]) == "; known are apple, pear"
    assert did_you_mean("xyz", [f"name{i}" for i in range(11)]) == ""
