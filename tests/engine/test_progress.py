"""The line of a training and what is in it."""

from types import SimpleNamespace

import pytest
from detectron2.utils.events import EventStorage
from torch.utils.data import DataLoader

from lite_focus_detr.engine import progress
from lite_focus_detr.engine.progress import (
    LoaderWithBar,
    ProgressLines,
    format_line,
    format_seconds,
)

VALUES = {
    "total_loss": 14.23,
    "loss_class": 0.351,
    "loss_bbox": 0.79,
    "loss_giou": 1.23,
    "lr": 1e-3,
}


def test_the_line_of_the_documentation():
    line = format_line(
        VALUES, epoch=(3, 36), iterations=160, seconds=0.41, remaining=690, best=(31.4, 2)
    )
    words = "epoch 3/36 it 160 loss 14.2 (class .35 box .79 giou 1.2) lr 1e-3 0.41 s/it ETA 11:30"
    assert line.split() == [*words.split(), "best", "AP", "31.4", "@2"]
    assert len(line) <= 100


@pytest.mark.parametrize("iterations", [1, 10**5, 10**7])
@pytest.mark.parametrize("scale", [1e-3, 1, 1e4])
def test_no_line_is_longer_than_the_screen(iterations, scale):
    values = {name: value * scale for name, value in VALUES.items()} | {"lr": 1.41e-4}
    line = format_line(
        values,
        epoch=(123, 500),
        iterations=iterations,
        seconds=12.34,
        remaining=1e6,
        best=(31.4, 120),
    )
    assert len(line) <= 100
    assert "ETA 11d 13h" in line
    assert line.endswith("@120")


def test_what_is_not_known_is_left_out():
    line = format_line({}, epoch=(1, 1), iterations=5, seconds=None, remaining=None, best=None)
    assert line == "epoch 1/1  it 5"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0:00"), (59.6, "1:00"), (690, "11:30"), (7890, "2:11:30"), (94290, "1d 2h")],
)
def test_times(seconds, text):
    assert format_seconds(seconds) == text


@pytest.fixture
def hook(monkeypatch):
    """The lines of a training of 100 iterations, 10 of them an epoch, one second each."""
    best = SimpleNamespace(value=31.4, iterations=11)
    hook = ProgressLines(
        images_per_epoch=40, images_per_iteration=4, evaluation_period=25, best=best
    )
    hook.trainer = SimpleNamespace(start_iter=0, max_iter=100)
    lines = []
    monkeypatch.setattr(progress.screen, "info", lambda *arguments: lines.append(arguments))
    with EventStorage() as hook.trainer.storage:
        hook.before_train()
        yield hook, lines


def steps(hook, iterations):
    for iteration in iterations:
        hook.trainer.iter = hook.trainer.storage.iter = iteration
        hook.trainer.storage.put_scalar("time", 1.0)
        hook.trainer.storage.put_scalar("total_loss", float(iteration))
        hook.after_step()


def test_lines_come_after_the_first_iterations_then_regularly_and_at_the_end(hook):
    hook, lines = hook
    steps(hook, range(100))
    text = [arguments[0] % arguments[1:] for arguments in lines]
    assert text[0].startswith("Expected end: ")
    assert text[0].endswith("in 1:35, without evaluations")
    counts = [int(line.split()[3]) for line in text[1:]]
    assert counts == [5, 20, 40, 60, 80, 100]
    assert text[1].startswith("epoch 1/10 ")
    assert text[2].startswith("epoch 2/10 ")
    assert text[-1].startswith("epoch 10/10 ")
    assert all(line.endswith("best AP 31.4 @2") for line in text[1:])
    # The median of the last 20 losses.
    assert "loss 29" in text[3] or "loss 30" in text[3]


@pytest.mark.parametrize(
    ("done", "seconds"),
    # Evaluations after 25, 50 and 75 iterations and at the end.
    [(20, 80 + 4 * 7), (25, 75 + 3 * 7), (60, 40 + 2 * 7), (80, 20 + 7), (100, 0)],
)
def test_the_time_that_is_left_has_that_of_evaluations(hook, done, seconds):
    hook, lines = hook
    hook.evaluation_seconds = 7.0
    steps(hook, range(done - 20 if done > 20 else 0, done))
    lines.clear()
    hook.trainer.start_iter = 0
    hook.trainer.storage.put_scalar("time", 1.0)
    assert hook.seconds_left(done) == pytest.approx(seconds)


def test_a_bar_is_for_terminals_only(hook, capsys):
    hook, _ = hook
    steps(hook, range(3))
    hook.after_train()
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("is_seen", [True, False])
def test_a_loader_with_a_bar_is_the_loader(monkeypatch, capsys, is_seen):
    monkeypatch.setattr(progress, "has_viewer", lambda: is_seen)
    loader = LoaderWithBar(DataLoader([1, 2, 3], batch_size=2))
    assert [batch.tolist() for batch in loader] == [[1, 2], [3]]
    assert len(loader) == 2
    assert loader.dataset == [1, 2, 3]
    assert ("evaluating" in capsys.readouterr().err) is is_seen
