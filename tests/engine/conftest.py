"""The detector of ``tiny.yaml`` and data small enough to train in milliseconds."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest
import torch
from detectron2.engine import default_argument_parser, defaults
from detectron2.structures import Boxes, Instances

from lite_focus_detr.config import load_config
from lite_focus_detr.engine import DetrTrainer

TINY = str(Path(__file__).with_name("tiny.yaml"))


@pytest.fixture
def setup():
    """That of ``train_net.py``: from its arguments to a configuration and a prepared run."""
    return runpy.run_path(str(Path(__file__).parents[2] / "train_net.py"))["setup"]


@pytest.fixture
def options(tmp_path):
    """``KEY VALUE`` pairs that keep the files of a run below ``tmp_path``."""
    return ["DATASETS.SHAPES.ROOT", str(tmp_path / "shapes"), "OUTPUT_DIR", str(tmp_path / "out")]


@pytest.fixture
def make_args(options):
    """Arguments of ``train_net.py`` for the tiny detector: ``make_args("--resume", ...)``."""

    def make(*arguments):
        command = ["--config-file", TINY, *arguments, *options]
        return default_argument_parser().parse_args(command)

    return make


@pytest.fixture
def make_cfg(options):
    """The configuration of the tiny detector with changes: ``make_cfg("KEY", value, ...)``."""

    def make(*changes):
        cfg = load_config(TINY, options)
        cfg.merge_from_list(list(changes))
        return cfg

    return make


@pytest.fixture
def make_image():
    """An input of the detector with ``num_boxes`` boxes, the same for the same seed."""

    def make(seed: int, num_boxes: int):
        generator = torch.Generator().manual_seed(seed)
        corner = 32 * torch.rand(num_boxes, 2, generator=generator)
        size = 4 + 28 * torch.rand(num_boxes, 2, generator=generator)
        instances = Instances((64, 64))
        instances.gt_boxes = Boxes(torch.cat((corner, corner + size), dim=1))
        instances.gt_classes = torch.randint(3, (num_boxes,), generator=generator)
        image = torch.randint(0, 256, (3, 64, 64), generator=generator)
        return {"image": image, "height": 64, "width": 64, "instances": instances}

    return make


class Killed(BaseException):
    """What no handler of errors sees."""


@pytest.fixture
def train_until_killed(setup, make_args, tmp_path, monkeypatch):
    """Train in a folder, until a kill where one is asked for; returns the trainer."""
    monkeypatch.setattr(defaults, "collect_env_info", lambda: "")  # half of the time

    def run(name, *options, kill_at=None, resume=False):
        args = make_args(*(["--resume"] if resume else []), *options)
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
