from pathlib import Path

from lite_focus_detr.config import load_config

TINY = Path(__file__).parents[1] / "engine" / "tiny.yaml"


def test_an_empty_mapping_as_configuration_gives_the_defaults(tmp_path):
    (tmp_path / "leaf.yaml").write_text("{}\n")
    assert load_config(str(tmp_path / "leaf.yaml"), []) == load_config("", [])


def test_options_override_the_file_and_the_file_the_defaults():
    cfg = load_config(str(TINY), ["MODEL.DETR.NUM_QUERIES", "7"])
    assert (cfg.MODEL.DETR.NUM_QUERIES, cfg.MODEL.DETR.EMBED_DIM) == (7, 16)
    assert cfg.MODEL.DETR.LOSS.GIOU_WEIGHT == 2.0
