import json
import os
import statistics
from types import SimpleNamespace

import pytest
from detectron2.utils.events import EventStorage, JSONWriter

from lite_focus_detr.engine.metrics import MetricHistory, MetricsFile, read_metrics


def loss(iteration):
    return float((7 * iteration) % 11)


def train(path, start, end, *, history=None, writer=None, evaluations=()):
    """Iterations with a loss, some with an evaluation; lines after every fifth."""
    writer = writer or MetricsFile(str(path))
    hook = MetricHistory(writer)
    states = {}
    with EventStorage(start) as storage:
        hook.trainer = SimpleNamespace(storage=storage, start_iter=start)
        if history is not None:
            hook.load_state_dict(history)
        hook.before_train()
        if start % 5 == 0:  # what the trainer makes up for
            storage.iter = start - 1
            writer.write()
        for iteration in range(start, end):
            storage.iter = iteration
            storage.put_scalar("loss", loss(iteration))
            storage.put_scalar("lr", 1.0 / (iteration + 1), smoothing_hint=False)
            states[iteration] = hook.state_dict()
            if iteration in evaluations:
                storage.put_scalar("bbox/AP", 10.0 * iteration, smoothing_hint=False)
            if (iteration + 1) % 5 == 0:
                writer.write()
    return SimpleNamespace(states=states, hook=hook)


def rows(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_the_lines_are_those_of_detectron2(tmp_path):
    train(tmp_path / "ours.json", 0, 60, evaluations=(3, 39))
    theirs = JSONWriter(str(tmp_path / "theirs.json"))
    theirs.written, theirs.take_back = -1, lambda *_: {}
    train(None, 0, 60, evaluations=(3, 39), writer=theirs)
    theirs.close()
    assert (tmp_path / "ours.json").read_text() == (tmp_path / "theirs.json").read_text()


def test_the_smoothed_value_is_the_median_of_twenty_iterations(tmp_path):
    train(tmp_path / "m.json", 0, 50)
    for row in rows(tmp_path / "m.json"):
        last = row["iteration"]
        window = [loss(i) for i in range(max(0, last - 19), last + 1)]
        # detectron2's buffer takes NumPy's median, which is the mean of the middle two.
        assert row["loss"] == statistics.median(window)
        assert row["lr"] == 1.0 / (last + 1)


@pytest.mark.parametrize("checkpoint", [0, 3, 4, 5, 17, 24, 33])
@pytest.mark.parametrize("lost", [0, 1, 4, 9])
def test_a_resumed_training_leaves_the_file_of_an_uninterrupted_one(tmp_path, checkpoint, lost):
    evaluations = (2, 16, 26)
    train(tmp_path / "whole.json", 0, 40, evaluations=evaluations)
    path = tmp_path / "resumed.json"
    first = train(path, 0, checkpoint + 1 + lost, evaluations=evaluations)
    state = first.states[checkpoint]
    train(path, checkpoint + 1, 40, history=state, evaluations=evaluations)
    assert rows(path) == rows(tmp_path / "whole.json")


def test_an_evaluation_after_the_checkpoint_is_found_in_the_file(tmp_path):
    path = tmp_path / "m.json"
    state = train(path, 0, 10, evaluations=(4,)).states[4]
    with EventStorage(5) as storage:
        hook = MetricHistory(MetricsFile(str(path)))
        hook.trainer = SimpleNamespace(storage=storage, start_iter=5)
        hook.load_state_dict(state)
        hook.before_train()
        assert hook.found_evaluation
        assert storage.latest()["bbox/AP"] == (40.0, 4)
    assert rows(path) == []


def test_part_of_a_line_that_a_kill_has_left_is_taken_back(tmp_path):
    path = tmp_path / "m.json"
    state = train(path, 0, 7).states[6]
    whole = path.read_text()
    path.write_text(whole + '{"iteration": 9, "lo')
    train(path, 7, 7, history=state)
    assert path.read_text() == whole


def test_a_full_disk_keeps_the_lines_for_later_and_leaves_no_part(tmp_path, monkeypatch):
    path = tmp_path / "m.json"
    writer = MetricsFile(str(path))

    def write(iteration):
        with EventStorage(iteration) as storage:
            storage.put_scalar("loss", loss(iteration))
            writer.write()

    write(1)
    before = path.read_text()
    with monkeypatch.context() as full:
        error = OSError(28, "No space left on device")
        full.setattr(os, "fsync", lambda descriptor: (_ for _ in ()).throw(error))
        write(2)
        write(3)
        assert path.read_text() == before
    write(4)
    assert rows(path) == [{"iteration": i, "loss": loss(i)} for i in (1, 2, 3, 4)]


def test_a_file_is_read_without_its_broken_lines(tmp_path):
    path = tmp_path / "metrics.json"
    assert read_metrics(path) == []
    path.write_text('{"iteration": 1, "loss": 2.0}\n{"loss": 3}\n{"iteration": 2, "lo')
    assert read_metrics(path) == [{"iteration": 1, "loss": 2.0}]
