"""Mixtures of MODEL.FOCUS and MODEL.SPARSE that cannot be built or trained."""

import pytest
from detectron2.config import get_cfg

from lite_focus_detr import add_lite_focus_detr_config, validate_config

FOCUS = ["MODEL.META_ARCHITECTURE", "FocusDETR"]
SPARSE = ["MODEL.META_ARCHITECTURE", "SparseDETR"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([*FOCUS, "MODEL.DETR.ENCODER.NUM_LAYERS", 3], "KEEP_RATIOS has 6 entries.*is 3"),
        ([*FOCUS, "MODEL.FOCUS.KEEP_RATIOS", [0.1, 0.2, 0.2, 0.1, 0.1, 0.1]], "not rise"),
        ([*FOCUS, "MODEL.FOCUS.KEEP_RATIOS", [1.1] * 6], r"must lie in \(0, 1\]"),
        ([*FOCUS, "MODEL.FOCUS.KEEP_RATIOS", [0.5] * 5 + [0.0]], r"must lie in \(0, 1\]"),
        ([*FOCUS, "MODEL.FOCUS.SCALE_RANGES", [[-1, 64]]], "SCALE_RANGES has 1 entries"),
        (
            [*FOCUS, "MODEL.FOCUS.MODULATION", "sideways"],
            "MODULATION is .sideways.; it must be",
        ),
        ([*FOCUS, "MODEL.FOCUS.DISTANCE", "center"], "DISTANCE is 'center'"),
        ([*FOCUS, "MODEL.FOCUS.VALUE", "fresh"], "VALUE is 'fresh'"),
        ([*FOCUS, "MODEL.FOCUS.OBJECT_SCORE", "both"], "OBJECT_SCORE is 'both'"),
        (["MODEL.DETR.PROPOSAL_LOSS", "none"], "PROPOSAL_LOSS is 'none'"),
        ([*FOCUS, "MODEL.FOCUS.SCALE_RANGES", [[-1], [1], [2], [3]]], "must hold a .low, high."),
        ([*FOCUS, "MODEL.FOCUS.SCALE_RANGES", [[64, -1]] * 4], "must hold a .low, high."),
        ([*FOCUS, "MODEL.FOCUS.OBJECT_TOKENS", -1], "OBJECT_TOKENS is -1; .* at least 0"),
        ([*FOCUS, "MODEL.FOCUS.LOSS_WEIGHT", -0.5], "LOSS_WEIGHT is -0.5; .* at least 0"),
        ([*SPARSE, "MODEL.SPARSE.OBJECT_TOKENS", -3], "OBJECT_TOKENS is -3; .* at least 0"),
        ([*SPARSE, "MODEL.SPARSE.KEEP_RATIO", 0.0], r"KEEP_RATIO is 0.0; it must lie in \(0, 1\]"),
        ([*SPARSE, "MODEL.DETR.DECODER.ATTENTION", "key_aware"], "SparseDETR learns from"),
    ],
)
def test_impossible_mixtures_are_refused_with_the_keys_named(options, message):
    cfg = get_cfg()
    add_lite_focus_detr_config(cfg)
    cfg.merge_from_list(options)
    with pytest.raises(ValueError, match=message):
        validate_config(cfg)


@pytest.mark.parametrize("options", [FOCUS, SPARSE])
def test_the_defaults_are_valid(options):
    cfg = get_cfg()
    add_lite_focus_detr_config(cfg)
    cfg.merge_from_list(options)
    validate_config(cfg)
