import sys
from pathlib import Path

import pytest

from lite_focus_detr.config import load_config

TINY = Path(__file__).parents[1] / "engine" / "tiny.yaml"


def test_an_empty_mapping_as_configuration_gives_the_defaults(tmp_path):
    (tmp_path / "leaf.yaml").write_text("{}\n")
    assert load_config(str(tmp_path / "leaf.yaml"), []) == load_config("", [])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"_BASE_: leaf.yaml\n", "leaf.yaml: a file of _BASE_ names itself"),
        (b"MODEL: {WEIGHTS: \xff}\n", "leaf.yaml is not valid YAML: .*0xff"),
    ],
)
def test_a_file_that_cannot_be_read_is_named(content, message, tmp_path):
    (tmp_path / "leaf.yaml").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        load_config(str(tmp_path / "leaf.yaml"))


def test_a_folder_in_place_of_a_file_is_named(tmp_path):
    with pytest.raises(ValueError, match=f"cannot read the configuration file {tmp_path}: .*irect"):
        load_config(str(tmp_path))


def test_options_override_the_file_and_the_file_the_defaults():
    cfg = load_config(str(TINY), ["MODEL.DETR.NUM_QUERIES", "7"])
    assert (cfg.MODEL.DETR.NUM_QUERIES, cfg.MODEL.DETR.EMBED_DIM) == (7, 16)
    assert cfg.MODEL.DETR.LOSS.GIOU_WEIGHT == 2.0


def test_a_module_of_the_current_folder_does_not_hide_one_that_is_installed(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    for folder in ("installed", "current"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "module_of_two_folders.py").write_text(f"place = {folder!r}\n")
    monkeypatch.syspath_prepend(tmp_path / "installed")
    monkeypatch.chdir(tmp_path / "current")
    load_config("", ["IMPORTS", "[module_of_two_folders]"])
    assert sys.modules["module_of_two_folders"].place == "installed"


def test_a_missing_module_is_not_mistaken_for_one_whose_name_it_begins(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "no_such_thing_needed.py").write_text("import no_such_thing\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="No module named 'no_such_thing'"):
        load_config("", ["IMPORTS", "[no_such_thing_needed]"])
