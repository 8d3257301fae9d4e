"""A resumed training ends with the bits that an uninterrupted one ends with."""

import pytest
from detectron2.engine import defaults

from lite_focus_detr.engine import DetrTrainer

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


class Killed(BaseException):
    """What no handler of errors sees."""


@pytest.fixture
def run(setup, make_args, tmp_path, monkeypatch):
    """Train in a folder, until a kill where one is asked for; returns the trainer."""
    monkeypatch.setattr(defaults, "collect_env_info", lambda: "")  # half of the time

    def run(name, *options, kill_at=None, resume=False):
        args = make_args(*(["--resume"] if resume else []), *COMMON, *options)
        args.opts += ["OUTPUT_DIR", str(tmp_path / name)]
        trainer = DetrTrainer(setup(args))
        trainer.resume_or_load(resume=resume)
        step = trainer._trainer.run_step

        def run_step():
            if trainer.iter == kill_at:
                raise Killed
            step()

        trainer._trainer.run_step = run_step
        # What runs in `finally` after a kill is that of no process.
        trainer.after_train = lambda: None if trainer.iter == kill_at else after_train()
        after_train = type(trainer).after_train.__get__(trainer)
        try:
            trainer.train()
        except Killed:
            assert kill_at is not None
        return trainer

    return run


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
