"""Scalars that are sent to other services; stand-ins take the place of their libraries."""

import logging
import sys
from types import SimpleNamespace

import pytest
from detectron2.utils.events import EventStorage

from lite_focus_detr.engine import DetrTrainer
from lite_focus_detr.engine.experiment_writers import build_experiment_writers, check_loggers


class ServiceError(Exception):
    """What both libraries raise."""


class Library(SimpleNamespace):
    """Notes how it is called, and can be found by the import system."""

    def __init__(self, name, *functions):
        super().__init__(__name__=name, __spec__=SimpleNamespace(name=name), calls=[])
        self.Error = self.MlflowException = ServiceError
        for function in functions:
            setattr(self, function, self._note(function))

    def _note(self, function):
        def call(*arguments, **options):
            self.calls.append((function, arguments, options))
            return self

        return call


@pytest.fixture
def wandb(monkeypatch):
    library = Library("wandb", "init", "log", "finish")
    monkeypatch.setitem(sys.modules, "wandb", library)
    return library


@pytest.fixture
def mlflow(monkeypatch):
    library = Library("mlflow", "start_run", "log_text", "log_metrics", "end_run")
    monkeypatch.setitem(sys.modules, "mlflow", library)
    return library


def write_two_periods(writer):
    with EventStorage() as storage:
        for value in (3.0, 1.0, 2.0):
            storage.put_scalar("total_loss", value)
            storage.put_scalar("bbox/AP-a, b", value, smoothing_hint=False)
            storage.step()
        writer.write()
        writer.write()
        storage.put_scalar("total_loss", 8.0)
        writer.write()
        writer.close()


def test_wandb_gets_each_scalar_once_with_its_iteration(make_cfg, wandb):
    cfg = make_cfg("LOGGERS", ["wandb"], "OUTPUT_DIR", "runs/cells")
    (writer,) = build_experiment_writers(cfg)
    assert wandb.calls == []  # No run before there is something to send.
    write_two_periods(writer)
    (init, arguments, options), *logs, end = wandb.calls
    assert (init, arguments, options["name"]) == ("init", (), "cells")
    assert (options["dir"], options["resume"]) == ("runs/cells", "auto")
    assert options["config"] == {"cfg": cfg.dump()}
    # The median of 3, 1 and 2, the latest AP; later the median of 3, 1, 2 and 8.
    assert logs == [
        ("log", ({"total_loss": 2.0, "bbox/AP-a, b": 2.0},), {"step": 2}),
        ("log", ({"total_loss": 2.5},), {"step": 3}),
    ]
    assert end == ("finish", (), {})


def test_mlflow_gets_the_configuration_and_names_that_it_takes(make_cfg, mlflow):
    cfg = make_cfg("LOGGERS", ["mlflow"], "OUTPUT_DIR", "runs/cells")
    (writer,) = build_experiment_writers(cfg)
    write_two_periods(writer)
    assert mlflow.calls == [
        ("start_run", (), {"run_name": "cells"}),
        ("log_text", (cfg.dump(), "config.yaml"), {}),
        ("log_metrics", ({"total_loss": 2.0, "bbox/AP-a_ b": 2.0},), {"step": 2}),
        ("log_metrics", ({"total_loss": 2.5},), {"step": 3}),
        ("end_run", (), {}),
    ]


@pytest.mark.fault(area="training", expected="survived")
@pytest.mark.parametrize("function", ["init", "log", "finish"])
def test_a_service_that_fails_is_given_up_with_one_line(
    make_cfg, wandb, monkeypatch, caplog, function
):
    def fail(*arguments, **options):
        wandb.calls.append(function)
        raise ServiceError("no connection\ndetails")

    monkeypatch.setattr(logging.getLogger("lite_focus_detr"), "propagate", True)
    monkeypatch.setattr(wandb, function, fail)
    (writer,) = build_experiment_writers(make_cfg("LOGGERS", ["wandb"]))
    write_two_periods(writer)
    assert wandb.calls[-1] == function
    assert wandb.calls.count(function) == 1
    # A logger that passes its records on may have a handler of pytest as well.
    (record,) = {id(x): x for x in caplog.records if x.levelno > logging.INFO}.values()
    message = record.getMessage()
    assert message == "WandbWriter sends no more (no connection): metrics.json has all"


def test_a_run_that_sent_nothing_is_not_ended(make_cfg, mlflow):
    (writer,) = build_experiment_writers(make_cfg("LOGGERS", ["mlflow"]))
    with EventStorage():
        writer.write()
    writer.close()
    assert mlflow.calls == []


def test_an_unknown_service_and_one_that_is_not_installed_are_refused(monkeypatch):
    with pytest.raises(ValueError, match="LOGGERS has 'comet'; there are wandb and mlflow"):
        check_loggers(["comet"])
    monkeypatch.setitem(sys.modules, "wandb", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match="not installed: pip install wandb"):
        check_loggers(["wandb"])


def test_a_service_that_is_not_installed_is_said_before_the_data_is_read(make_cfg, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match="pip install wandb"):
        DetrTrainer(make_cfg("LOGGERS", ["wandb"]))


def test_a_training_sends_losses_and_ap(setup, make_args, wandb):
    DetrTrainer(setup(make_args("LOGGERS", "['wandb']"))).train()
    sent = {
        name for function, arguments, _ in wandb.calls if function == "log" for name in arguments[0]
    }
    assert {"total_loss", "lr", "bbox/AP"} <= sent
    assert wandb.calls[-1][0] == "finish"
