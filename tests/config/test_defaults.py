"""The keys that the project adds, and their values without a file."""

import pytest
from detectron2.config import CfgNode, get_cfg

from lite_focus_detr import add_lite_focus_detr_config
from lite_focus_detr.config import defaults


@pytest.fixture
def cfg():
    cfg = get_cfg()
    add_lite_focus_detr_config(cfg)
    return cfg


def keys(node, prefix=""):
    found = set()
    for name, value in node.items():
        key = f"{prefix}{name}"
        found |= keys(value, f"{key}.") if isinstance(value, CfgNode) else {key}
    return found


@pytest.mark.parametrize(
    ("add", "sample"),
    [
        (defaults.add_detr_config, "MODEL.DETR.ENCODER.NUM_LAYERS"),
        (defaults.add_backbone_config, "MODEL.TIMM.NAME"),
        (defaults.add_solver_config, "SOLVER.AMP.DTYPE"),
        (defaults.add_data_config, "INPUT.RESIZE_ROUNDING"),
    ],
)
def test_every_key_is_there_and_none_of_detectron2_changes(cfg, add, sample):
    own = get_cfg()
    add(own)
    added = keys(own) - keys(get_cfg())
    assert sample in added
    assert added <= keys(cfg)
    for key in keys(get_cfg()):
        assert value_of(own, key) == value_of(get_cfg(), key)


def value_of(node, key):
    for name in key.split("."):
        node = node[name]
    return node


def test_no_module_is_imported_unless_asked_for(cfg):
    assert cfg.IMPORTS == []


def test_the_defaults_are_the_one_stage_deformable_detr(cfg):
    detr = cfg.MODEL.DETR
    # The sizes of its section "Implementation details" and of its released code.
    assert (detr.EMBED_DIM, detr.NUM_HEADS, detr.NUM_LEVELS, detr.NUM_QUERIES) == (256, 8, 4, 300)
    for part in (detr.ENCODER, detr.DECODER):
        assert (part.NUM_LAYERS, part.FFN_DIM, part.NUM_POINTS, part.DROPOUT) == (6, 1024, 4, 0.1)
    assert (detr.QUERY_SELECTION, detr.REFERENCE, detr.BOX_REFINE) == ("learned", "point", False)
    weights = (detr.LOSS.CLASS_WEIGHT, detr.LOSS.BOX_WEIGHT, detr.LOSS.GIOU_WEIGHT)
    costs = (detr.MATCHER.CLASS_COST, detr.MATCHER.BOX_COST, detr.MATCHER.GIOU_COST)
    assert weights == costs == (2.0, 5.0, 2.0)


def test_the_defaults_of_training_are_the_recipe_without_what_a_family_adds(cfg):
    solver = cfg.SOLVER
    # A pretrained backbone at a tenth of the rate, as in DETR and all that followed.
    assert (solver.BACKBONE_MULTIPLIER, solver.SAMPLING_MULTIPLIER) == (0.1, 1.0)
    assert (solver.OPTIMIZER, solver.ACCUMULATION_STEPS, solver.EPOCHS) == ("AdamW", 1, 0)
    assert (solver.AMP.ENABLED, solver.AMP.DTYPE) == (False, "float16")
    assert (cfg.MODEL.EMA.ENABLED, cfg.MODEL.EMA.DECAY) == (False, 0.9997)
    assert cfg.MODEL.DETR.DENOISING.TYPE == "none"
