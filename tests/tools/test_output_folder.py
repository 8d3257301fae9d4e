import os

import pytest

from lite_focus_detr.tools.output_folder import OutputFolder, unique_names


def run(path, *names, text="by a run"):
    """What a command does in a folder."""
    folder = OutputFolder(path)
    folder.require_free(names)
    path.mkdir(exist_ok=True)
    for name in names:
        (path / name).write_text(text)
    folder.note(names)


def test_files_of_earlier_runs_are_replaced(tmp_path):
    run(tmp_path / "out", "a.png", "b.png")
    run(tmp_path / "out", "b.png", "c.png", text="again")
    assert (tmp_path / "out/b.png").read_text() == "again"
    run(tmp_path / "out", "a.png", text="third")
    assert (tmp_path / "out/a.png").read_text() == "third"


@pytest.mark.fault(area="tools", expected="refused")
@pytest.mark.parametrize("owner", ["another program", "somebody who changed it", "no manifest"])
def test_files_of_others_are_not_overwritten(tmp_path, owner):
    out = tmp_path / "out"
    run(out, "a.png")
    if owner == "another program":
        (out / "b.png").write_text("theirs")
    elif owner == "somebody who changed it":
        run(out, "b.png")
        (out / "b.png").write_text("theirs")
        os.utime(out / "b.png", ns=(1, 1))
    else:
        run(out, "b.png", text="theirs")
        (out / ".lite_focus_detr.json").write_text("no JSON")
    pattern = r"b\.png(, and 1 more)?: would be overwritten, .* give another --output"
    with pytest.raises(ValueError, match=pattern):
        run(out, "b.png", *(["a.png"] if owner == "no manifest" else []))
    assert (out / "b.png").read_text() == "theirs"


def test_names_are_numbered_where_they_collide():
    names = unique_names(["a", "b", "a", "A", "a"], [".png", ".png", ".png", ".png", ".mp4"])
    assert names == ["a.png", "b.png", "a_2.png", "A_3.png", "a.mp4"]
