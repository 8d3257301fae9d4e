"""The detector of ``tiny.yaml`` and data small enough to train in milliseconds."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest
import torch
from detectron2.engine import default_argument_parser
from detectron2.structures import Boxes, Instances

from lite_focus_detr.config import load_config

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
