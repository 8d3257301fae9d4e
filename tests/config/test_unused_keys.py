"""Keys that would change nothing are refused."""

from pathlib import Path

import pytest
from detectron2.config import get_cfg
from detectron2.modeling import META_ARCH_REGISTRY

from lite_focus_detr.config import load_config
from lite_focus_detr.config.unused_keys import UNUSED

TINY = str(Path(__file__).parents[1] / "engine/tiny.yaml")


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("TEST.AUG.ENABLED", "True", "TEST.AUG.ENABLED is True, but it does nothing here: images"),
        ("MODEL.ROI_HEADS.NUM_CLASSES", "3", "nothing here: set MODEL.DETR.NUM_CLASSES; leave"),
        ("MODEL.ROI_HEADS.IOU_LABELS", "[0, 2]", "nothing here: other detectors have it"),
        ("SOLVER.MOMENTUM", "0.8", "AdamW has none; leave it out, or at 0.9"),
    ],
)
def test_a_changed_key_is_refused_with_the_reason(key, value, message):
    with pytest.raises(ValueError, match=message):
        load_config(TINY, [key, value])


def test_the_default_may_be_written_down(tmp_path):
    (tmp_path / "saved.yaml").write_text(load_config(TINY).dump())
    load_config(str(tmp_path / "saved.yaml"))
    load_config(TINY, ["TEST.AUG.ENABLED", "False", "SOLVER.MOMENTUM", "0.9"])


def test_detectors_of_others_may_use_them(monkeypatch):
    class Other:
        """Of another package."""

    monkeypatch.setattr(META_ARCH_REGISTRY, "_obj_map", {"Other": Other})
    cfg = load_config("", ["MODEL.META_ARCHITECTURE", "Other", "MODEL.MASK_ON", "True"])
    assert cfg.MODEL.MASK_ON


def test_the_list_names_keys_that_exist():
    def names(node, prefix=""):
        for key, value in node.items():
            yield from names(value, f"{prefix}{key}.") if hasattr(value, "items") else ()
            yield f"{prefix}{key}"

    known = list(names(get_cfg()))
    for start in UNUSED:
        found = [key for key in known if key == start or key.startswith(start)]
        assert found, start
        assert start.endswith(".") or start in known, start
