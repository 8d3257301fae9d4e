import sys
from pathlib import Path

import pytest

from lite_focus_detr.config import SavedConfig, load_config

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


def test_what_a_checkpoint_holds_is_read_without_the_places_of_its_machine():
    text = "\n".join(
        (
            "OUTPUT_DIR: /elsewhere",
            "MODEL: {WEIGHTS: /elsewhere/w.pth, DEVICE: 'cuda:3', DETR: {NUM_QUERIES: 7},",
            "  TIMM: {NAME: test_vit, PRETRAINED: true}}",
        )
    )
    cfg = load_config(SavedConfig(text, "a.pth"), ["MODEL.DETR.NUM_CLASSES", "5"])
    assert (cfg.MODEL.DETR.NUM_QUERIES, cfg.MODEL.DETR.NUM_CLASSES) == (7, 5)
    assert cfg.MODEL.TIMM.NAME == "test_vit"
    defaults = load_config("")
    assert cfg.OUTPUT_DIR == defaults.OUTPUT_DIR
    assert (cfg.MODEL.WEIGHTS, cfg.MODEL.DEVICE) == (defaults.MODEL.WEIGHTS, "cuda")
    assert cfg.MODEL.TIMM.PRETRAINED is False


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("MODEL: {DETR: {NUM_QUERYS: 3}}", r"key MODEL.DETR.NUM_QUERYS in a\.pth; .*NUM_QUERIES"),
        ("MODEL: [1]", r"a\.pth, .* no mapping"),
        ("- 1", r"a\.pth, .* no mapping"),
        ("MODEL: {", r"a\.pth is not valid YAML"),
        (
            "!!python/object/apply:os.getcwd []",
            r"a\.pth is refused: .*configurations hold only data",
        ),
        ("_BASE_: /etc/hostname", r"unknown configuration key _BASE_ in a\.pth"),
        ("#" * (2 << 20), r"a\.pth is refused: it is larger"),
    ],
)
def test_faults_in_what_a_checkpoint_holds_are_named_with_its_file(text, message):
    with pytest.raises(ValueError, match=message):
        load_config(SavedConfig(text, "a.pth"))


@pytest.mark.parametrize("name", ["hf-hub:evil/x", "hf_hub:evil/x", "local-dir:/evil"])
def test_models_of_timm_that_lie_elsewhere_need_trust_but_not_those_of_the_user(name):
    text = f"MODEL: {{TIMM: {{NAME: {name!r}, PRETRAINED: true}}}}"
    with pytest.raises(ValueError, match=rf"a\.pth takes the model {name!r} .*--trust-imports"):
        load_config(SavedConfig(text, "a.pth"))
    trusted = load_config(SavedConfig(text, "a.pth", trust_imports=True)).MODEL.TIMM
    assert trusted == {"NAME": name, "PRETRAINED": False}
    of_the_user = load_config("", ["MODEL.TIMM.NAME", name]).MODEL.TIMM
    assert of_the_user == {"NAME": name, "PRETRAINED": False}


def test_modules_that_a_checkpoint_names_need_trust_but_not_those_of_the_user(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "module_of_a_checkpoint.py").write_text("value = 3\n")
    monkeypatch.chdir(tmp_path)
    config = SavedConfig("IMPORTS: [module_of_a_checkpoint]", "a.pth")
    with pytest.raises(
        ValueError, match=r"a\.pth needs .* module_of_a_checkpoint .*--trust-imports"
    ):
        load_config(config)
    assert "module_of_a_checkpoint" not in sys.modules
    load_config(config, ["IMPORTS", "[json]"])
    assert "module_of_a_checkpoint" not in sys.modules
    load_config(SavedConfig(config.text, "a.pth", trust_imports=True))
    assert sys.modules["module_of_a_checkpoint"].value == 3
