"""Files that take their place when they are complete."""

import json

import pytest

from lite_focus_detr.data.atomic_file import atomic_file


def test_readers_see_the_old_content_until_the_new_is_complete(tmp_path):
    path = tmp_path / "made" / "a.json"
    for before, content in ((None, "first"), ("first", "é")):
        with atomic_file(path) as file:
            file.write(content)
            file.flush()
            assert (path.read_text() if path.exists() else None) == before
        assert path.read_bytes().decode() == content
    assert list(path.parent.iterdir()) == [path]


def test_an_error_leaves_the_old_content_and_nothing_else(tmp_path):
    path = tmp_path / "a.json"
    path.write_text("old")
    with pytest.raises(TypeError), atomic_file(str(path)) as file:
        json.dump(["half", object()], file)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
