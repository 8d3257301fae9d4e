from pathlib import Path

import pytest
from detectron2.config import get_cfg
from detectron2.modeling import build_model

from lite_focus_detr import add_lite_focus_detr_config, validate_config

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
LEAVES = sorted(
    str(path.relative_to(CONFIGS))
    for path in CONFIGS.rglob("*.yaml")
    if path.parent.name != "_base_" and path.parent.parent.name != "_base_"
)


def default():
    cfg = get_cfg()
    add_lite_focus_detr_config(cfg)
    return cfg


@pytest.mark.parametrize("leaf", LEAVES)
def test_every_configuration_builds_and_validates(leaf):
    cfg = default()
    cfg.merge_from_file(str(CONFIGS / leaf))
    validate_config(cfg)
    cfg.MODEL.DEVICE = "meta"
    assert sum(p.numel() for p in build_model(cfg).parameters()) > 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["MODEL.DETR.QUERY_SELECTION", "best"], "QUERY_SELECTION is 'best'; it must be one of"),
        (["MODEL.DETR.LOOK_FORWARD_TWICE", True], "LOOK_FORWARD_TWICE needs .*BOX_REFINE"),
        (["MODEL.DETR.DENOISING.TYPE", "contrastive"], "DENOISING.TYPE contrastive needs queries"),
        (["MODEL.DETR.CLASS_AGNOSTIC_PROPOSALS", True], "learned queries have no proposals"),
        (["MODEL.DETR.DECODER.POSITION_SCALE", True], "POSITION_SCALE True needs"),
        (["MODEL.DETR.NUM_HEADS", 7], "EMBED_DIM 256 must be divisible by .*NUM_HEADS 7"),
        (["MODEL.DETR.NORM_GROUPS", 48], "must be divisible by .*NORM_GROUPS 48"),
        (["MODEL.DETR.NUM_LEVELS", 2], "NUM_LEVELS 2 is less than the 3 entries"),
        (["MODEL.DETR.NUM_CLASSES", 0], "NUM_CLASSES is 0; it must be at least 1"),
        (["MODEL.DETR.LOSS.GIOU_EPS", -1e-6], "GIOU_EPS is -1e-06; it must be at least 0"),
        (["MODEL.DETR.ENCODER.PROJECTED_KEY", True], "ENCODER.PROJECTED_KEY needs .*ENCODER.ATTEN"),
        (["MODEL.DETR.DECODER.PROJECTED_KEY", True], "DECODER.PROJECTED_KEY needs .*DECODER.ATTEN"),
        (["SOLVER.ACCUMULATION_STEPS", 0], "ACCUMULATION_STEPS is 0; it must be at least 1"),
        (["SOLVER.IMS_PER_BATCH", 0], "IMS_PER_BATCH is 0; it must be at least 1"),
        (["SOLVER.BASE_LR", -1e-4], "BASE_LR is -0.0001; it must be at least 0"),
        (["MODEL.DETR.COCO_ID_ROWS", True], "COCO_ID_ROWS needs MODEL.DETR.NUM_CLASSES 91"),
        (["MODEL.DETR.PROPOSAL_LOSS", "none"], "PROPOSAL_LOSS is 'none'"),
        (["SOLVER.AMP.DTYPE", "fp16"], "float16, bfloat16"),
        (["SOLVER.KEEP_RATIO_RANGE", [0.5, 0.1]], "KEEP_RATIO_RANGE is .0.5, 0.1.; it must be"),
        (["SOLVER.KEEP_RATIO_RANGE", [0.5]], "KEEP_RATIO_RANGE is .0.5.; it must be"),
        (["SOLVER.KEEP_RATIO_RANGE", ["a", 0.5]], "KEEP_RATIO_RANGE is .'a', 0.5.; it must be"),
        (["SOLVER.KEEP_RATIO_RANGE", [0.5, 1.5]], "KEEP_RATIO_RANGE is .0.5, 1.5.; it must be"),
        (["SOLVER.CHECKPOINT_PERIOD", 0], "CHECKPOINT_PERIOD is 0; it must be at least 1"),
        (["INPUT.FORMAT", "XYZ"], "INPUT.FORMAT is 'XYZ'; it must be one of RGB, BGR"),
        (["MODEL.PIXEL_MEAN", [1.0, 2.0]], "MODEL.PIXEL_MEAN has 2 values"),
        (["MODEL.PIXEL_STD", [1.0] * 4], "MODEL.PIXEL_STD has 4 values"),
        (["MODEL.PIXEL_STD", [1.0, 0.0, 1.0]], "MODEL.PIXEL_STD is .* must be positive"),
        (["INPUT.MIN_SIZE_TRAIN", ()], "INPUT.MIN_SIZE_TRAIN is .*; give one or more sizes"),
        (["INPUT.MIN_SIZE_TRAIN", (0, 800)], "INPUT.MIN_SIZE_TRAIN is .*; give one or more sizes"),
        (
            ["INPUT.MIN_SIZE_TRAIN_SAMPLING", "range", "INPUT.MIN_SIZE_TRAIN", (3, 4, 5)],
            "MIN_SIZE_TRAIN is .* needs the smallest and the largest",
        ),
        *(
            (
                ["SOLVER.CLIP_GRADIENTS.ENABLED", True, "SOLVER.CLIP_GRADIENTS.CLIP_VALUE", value],
                "CLIP_VALUE is .*; it must be positive",
            )
            for value in (-1.0, 0.0, float("nan"))
        ),
    ],
)
def test_impossible_mixtures_are_refused_with_the_keys_named(options, message):
    cfg = default()
    cfg.merge_from_list(options)
    with pytest.raises(ValueError, match=message):
        validate_config(cfg)


def test_the_defaults_are_valid():
    validate_config(default())


@pytest.mark.parametrize(
    "options",
    [
        ["MODEL.DETR.NUM_LEVELS", 3],  # As many as IN_FEATURES.
        ["MODEL.DETR.DECODER.ATTENTION", "key_aware", "MODEL.DETR.DECODER.PROJECTED_KEY", True],
        ["MODEL.DETR.NUM_CLASSES", 1, "MODEL.DETR.NUM_QUERIES", 1],
    ],
)
def test_what_can_be_built_is_accepted(options):
    cfg = default()
    cfg.merge_from_list(options)
    validate_config(cfg)
