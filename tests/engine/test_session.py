"""A training and an evaluation from their configuration to the metrics."""

import pytest

from lite_focus_detr.engine import train_or_evaluate


def test_evaluation_gives_what_the_end_of_the_training_gave(setup, make_args, tmp_path):
    expected = ["TEST.EXPECTED_RESULTS", "[['bbox', 'AP', 0.0, 100.0]]"]
    args = make_args()
    args.opts += expected
    trained = train_or_evaluate(setup(args), args)
    args = make_args("--eval-only")
    args.opts += ["MODEL.WEIGHTS", str(tmp_path / "out/model_final.pth")]
    evaluated = train_or_evaluate(setup(args), args)
    assert evaluated["bbox"] == pytest.approx(trained["bbox"], nan_ok=True)


def test_a_wrong_file_of_weights_ends_with_one_line(setup, make_args):
    args = make_args("--eval-only")
    args.opts += ["MODEL.WEIGHTS", "no/such.pth"]
    cfg = setup(args)
    with pytest.raises(SystemExit, match=r"^error: the checkpoint no/such\.pth does not exist"):
        train_or_evaluate(cfg, args)
