"""A resumed training ends with the bits that an uninterrupted one ends with."""

import pytest

ITERATIONS = 9
COMMON = (
    *("SEED", "3", "SOLVER.MAX_ITER", str(ITERATIONS), "SOLVER.CHECKPOINT_PERIOD", "2"),
    *(
        "TEST.EVAL_PERIOD",
        "4",
        "DATASETS.SHAPES.NUM_TRAIN",
        "9",
        "INPUT.MIN_SIZE_TRAIN",
        "(56, 64)",
    ),
    *("SOLVER.STEPS", "(6,)", "SOLVER.WARMUP_ITERS", "5"),
    *("MODEL.DETR.ENCODER.DROPOUT", "0.1", "MODEL.DETR.DECODER.DROPOUT", "0.1"),
    *("MODEL.DETR.BOX_REFINE", "True", "MODEL.DETR.QUERY_SELECTION", "mixed"),
    *("MODEL.DETR.DENOISING.TYPE", "contrastive", "MODEL.DETR.DECODER.FINAL_NORM", "True"),
)
CASES = {
    "average, accumulation, bfloat16": (
        *("MODEL.EMA.ENABLED", "True", "MODEL.EMA.DECAY", "0.9", "SOLVER.ACCUMULATION_STEPS", "2"),
        *("SOLVER.AMP.ENABLED", "True", "SOLVER.AMP.DTYPE", "bfloat16"),
    ),
    "no grouping, pictures": ("DATALOADER.ASPECT_RATIO_GROUPING", "False", "VIS_PERIOD", "2"),
}


@pytest.fixture
def run(train_until_killed):
    """Train with the options of all cases, and with others."""
    return lambda name, *options, **kill: train_until_killed(name, *COMMON, *options, **kill)


@pytest.mark.parametrize("case", CASES)
def test_resuming_is_exact(run, require_same_training, tmp_path, case):
    run("whole", *CASES[case])
    # Before the first evaluation, after a checkpoint whose evaluation is lost, at another number
    # of loader workers, and twice.
    run("cut", *CASES[case], kill_at=5)
    run("cut", *CASES[case], "DATALOADER.NUM_WORKERS", "2", kill_at=7, resume=True)
    run("cut", *CASES[case], "DATALOADER.NUM_WORKERS", "1", resume=True)
    require_same_training(tmp_path / "whole", tmp_path / "cut")


@pytest.mark.parametrize("iteration", [1, 8])
def test_resuming_is_exact_at_any_iteration(run, require_same_training, tmp_path, iteration):
    every = ("SOLVER.CHECKPOINT_PERIOD", "1")
    run("whole", *every)
    run("cut", *every, kill_at=iteration)
    resumed = run("cut", *every, resume=True)
    assert resumed.start_iter == iteration
    require_same_training(tmp_path / "whole", tmp_path / "cut")
