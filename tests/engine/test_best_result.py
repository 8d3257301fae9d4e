"""The best evaluation: its checkpoint, patience, and both after a resume."""

import math
from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch
from detectron2.utils.events import EventStorage, get_event_storage

from lite_focus_detr.engine import DetrTrainer, train_or_evaluate
from lite_focus_detr.engine.best_result import BestResult, NoImprovement, StopEarly
from lite_focus_detr.engine.hooks import Evaluation
from lite_focus_detr.engine.metrics import MetricError

#: AP of the evaluation after each iteration.
AP = {1: 10.0, 3: 30.0, 5: 20.0, 7: 30.0, 9: 5.0, 11: 40.0, 12: 50.0}
OPTIONS = (
    *("SEED", "3", "SOLVER.MAX_ITER", "12", "TEST.EVAL_PERIOD", "2"),
    *("SOLVER.CHECKPOINT_PERIOD", "3", "SOLVER.CHECKPOINT_KEEP", "1"),
    *("SOLVER.BEST_METRIC", "bbox/AP"),
)


def follow(values, metric="bbox/AP", patience=0):
    """A followed metric after evaluations with these values, and the iterations it was saved in."""
    saved = []
    best = BestResult(
        metric=metric,
        patience=patience,
        evaluation=Evaluation(1, dict),
        save=lambda: saved.append(1),
    )
    with EventStorage() as storage:
        best.trainer = SimpleNamespace(iter=0, max_iter=len(values), storage=storage)
        for iteration, value in enumerate(values):
            best.trainer.iter = storage.iter = best.evaluation.last = iteration
            storage.put_scalar("bbox/AP", value, smoothing_hint=False)
            before = len(saved)
            best.after_step()
            saved[before:] = [iteration] * (len(saved) - before)
    return best, saved


@pytest.mark.parametrize(
    ("values", "saved", "since"),
    [
        ([3, 5, 4, 5, 6], [0, 1, 4], 0),
        ([3, 2, 1], [0], 2),
        ([math.nan, math.nan, 0, math.nan], [2], 1),
        ([0.0, 0.0], [0], 1),
    ],
)
def test_more_is_better_and_the_first_of_equals_stays(values, saved, since):
    best, found = follow(values)
    assert found == saved
    assert best.since == since
    assert (best.iterations, best.value) == (saved[-1] + 1, values[saved[-1]])


def test_without_a_metric_nothing_is_saved_but_the_best_is_known():
    best, saved = follow([1, 3, 2], metric="")
    assert saved == []
    assert (best.value, best.iterations) == (3, 2)


def test_an_unknown_metric_is_refused_with_the_known_ones():
    with pytest.raises(
        MetricError, match=r"BEST_METRIC bbox/ap is none of the metrics .*: bbox/AP"
    ):
        follow([1.0], metric="bbox/ap")


def test_the_end_of_the_training_does_not_repeat_the_error():
    best = BestResult(metric="bbox/ap", patience=0, evaluation=Evaluation(1, dict), save=print)
    with EventStorage() as storage:
        best.trainer = SimpleNamespace(iter=0, max_iter=2, storage=storage)
        best.evaluation.last = 0
        with pytest.raises(MetricError):
            best.after_step()
        best.after_train()  # hooks behind this one close files


@pytest.mark.parametrize(("patience", "stops"), [(0, False), (2, True), (3, False)])
def test_patience_is_a_number_of_evaluations(patience, stops):
    best, _ = follow([3, 2, 1], patience=patience)
    saved = []
    hook = StopEarly(best, lambda: saved.append(True))
    hook.trainer = SimpleNamespace(iter=2)
    for _ in range(2):
        with pytest.raises(NoImprovement) if stops else nullcontext():
            hook.after_step()
    assert len(saved) == stops


def test_the_state_of_another_metric_is_not_taken():
    best, _ = follow([3.0])
    other, _ = follow([], metric="bbox/AP50")
    other.load_state_dict(best.state_dict())
    assert other.iterations == 0


@pytest.fixture
def run(train_until_killed, monkeypatch):
    """Train with the values of ``AP``."""

    def evaluate(cls, cfg, model, evaluators=None):
        # The sum of the weights, to see that resuming evaluates the same.
        total = sum(p.double().sum().item() for p in model.parameters())
        return {"bbox": {"AP": AP[get_event_storage().iter], "sum": total}}

    monkeypatch.setattr(DetrTrainer, "test", classmethod(evaluate))
    return lambda name, *options, **kill: train_until_killed(name, *OPTIONS, *options, **kill)


def require_same_file(first, second):
    ours, theirs = torch.load(first), torch.load(second)
    assert ours.keys() == theirs.keys()
    for part in ("model", "ema") if "ema" in ours else ("model",):
        assert all(torch.equal(ours[part][key], theirs[part][key]) for key in ours[part])
    assert ours["iteration"] == theirs["iteration"]
    assert ours["trainer"]["hooks"]["BestResult"] == theirs["trainer"]["hooks"]["BestResult"]


@pytest.mark.parametrize(("kills", "average"), [((5,), "True"), ((4, 7), "False")])
def test_patience_ends_a_resumed_training_where_it_ends_an_undisturbed_one(
    run, require_same_training, tmp_path, kills, average
):
    options = ("SOLVER.PATIENCE", "3", "MODEL.EMA.ENABLED", average)
    whole = run("whole", *options)
    # 30 after four iterations is followed by 20, 30 and 5.
    assert whole.iterations_made == 10
    for number, kill in enumerate(kills):
        run("cut", *options, kill_at=kill, resume=number > 0)
    resumed = run("cut", *options, resume=True)
    assert resumed.iterations_made == 10
    require_same_training(tmp_path / "whole", tmp_path / "cut")
    require_same_file(tmp_path / "whole/model_best.pth", tmp_path / "cut/model_best.pth")
    assert torch.load(tmp_path / "cut/model_best.pth")["iteration"] == 3


def test_the_end_is_one_line_and_resuming_it_trains_no_more(run, tmp_path):
    run("out", "SOLVER.PATIENCE", "3")
    before = (tmp_path / "out/model_final.pth").read_bytes()
    again = run("out", "SOLVER.PATIENCE", "3", resume=True)
    assert again.iterations_made == 10
    lines = (tmp_path / "out/log.txt").read_text().splitlines()
    line = "no improvement for 3 evaluations: stopping at 10"
    assert sum(line in text for text in lines) == 2
    assert (tmp_path / "out/model_final.pth").read_bytes() == before


def test_the_best_checkpoint_may_be_that_of_the_last_evaluation(run, tmp_path):
    run("out")
    files = sorted(path.name for path in (tmp_path / "out").glob("*.pth"))
    assert files == ["model_0000011.pth", "model_best.pth", "model_final.pth"]
    assert (tmp_path / "out/last_checkpoint").read_text() == "model_final.pth"
    best, final = (torch.load(tmp_path / f"out/model_{name}.pth") for name in ("best", "final"))
    assert best["iteration"] == final["iteration"] == 11
    assert best["trainer"]["stream"] == final["trainer"]["stream"]
    assert best["detector"]["metrics"]["bbox"]["AP"] == 50
    assert all(torch.equal(best["model"][key], final["model"][key]) for key in best["model"])


@pytest.mark.fault(area="configuration", expected="stopped")
@pytest.mark.parametrize("option", [("SOLVER.BEST_METRIC", "segm/AP"), ("SOLVER.PATIENCE", "1")])
def test_a_metric_that_is_not_there_ends_the_training_with_one_line(
    setup, make_args, option, monkeypatch
):
    results = {"other": {"AP": 1.0}}
    monkeypatch.setattr(DetrTrainer, "test", classmethod(lambda *arguments: results))
    args = make_args()
    args.opts += ["TEST.EVAL_PERIOD", "1", *option]
    cfg = setup(args)
    with pytest.raises(SystemExit, match=r"^error: SOLVER.BEST_METRIC .*/AP is none .*: other/AP$"):
        train_or_evaluate(cfg, args)
