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
