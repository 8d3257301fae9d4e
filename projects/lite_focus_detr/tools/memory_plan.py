"""Which batch, accumulation and checkpointing fit into a memory; for ``analyze_model``."""

from __future__ import annotations

import argparse
import math
import re
from collections.abc import Iterator, Sequence
from itertools import product
from typing import Any, NamedTuple

import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import EventStorage
from tabulate import tabulate
from tqdm import tqdm

from .. import model_zoo
from ..analysis.training_memory import BatchShape, TrainingMemory, measure_training_memory
from ..config import ConfigFile
from ..engine import TrainStep, build_optimizer, user_errors

#: Share of the memory that is planned with: the rest is for the context of CUDA, the workspaces of
#: its libraries, and pieces that nothing fits into.
USABLE = 0.9
#: Objects of an image of a training.
NUM_OBJECTS = 10
# The images that are measured have so many pixels for each query at least, twice as many as give
# a token: with fewer tokens than queries the decoder would grow with the images, too.
_PIXELS_PER_QUERY = 100
_SMALLEST_SIDE = 128
# The larger images are so many times larger. Levels of all have whole tokens.
_GROWTH = 1.75
_MULTIPLE = 32


class Plan(NamedTuple):
    """A way to train that fits."""

    precision: str
    checkpointing: bool
    batch: int  #: images at once; 0: not even one fits
    accumulation_steps: int
    peak: float  #: bytes
    most: int  #: images at once, whatever the configuration asks for


def print_plans(config_file: ConfigFile, options: Sequence[str], limit: float) -> None:
    """Measure a configuration, and print what fits.

    Args:
        config_file: a file, a name in the model zoo, or what a checkpoint holds.
        options: ``KEY VALUE ...``.
        limit: bytes of the device.
    """
    with user_errors():
        cfg = model_zoo.get_config(config_file, options)
        memories = {
            variant: measure(cfg, *variant)
            for variant in tqdm(list(product((False, True), repeat=2)), leave=False, disable=None)
        }
    height, width = largest_image(cfg)
    plans = [
        make_plan(cfg, memory, variant, USABLE * limit) for variant, memory in memories.items()
    ]
    fixed = memories[False, False]
    parts = {
        "weights": fixed.weights,
        "gradients": fixed.gradients,
        "optimiser": fixed.optimizer,
        "average": fixed.average,
    }
    sizes = ", ".join(f"{name} {gigabytes(value)}" for name, value in parts.items() if value)
    print(f"Images of {height}x{width}; {sizes} GB. Whole training, largest moment:")
    print(table(plans))
    print(advice(plans, limit))


def parse_memory(text: str) -> float:
    """Bytes of ``24GB`` or ``16000MB``; a GB has 10^9.

    Raises:
        argparse.ArgumentTypeError: it is neither.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([GM])i?B?", text.strip(), flags=re.IGNORECASE)
    if match is None or float(match[1]) <= 0:
        raise argparse.ArgumentTypeError(f"{text!r} is no memory such as 24GB")
    return float(match[1]) * (1e9 if match[2].upper() == "G" else 1e6)


def measure(cfg: CfgNode, checkpointing: bool, half: bool) -> TrainingMemory:
    """Memory of the training of a configuration, from a few steps on small images.

    Args:
        cfg: complete configuration.
        checkpointing: with ``MODEL.DETR.GRADIENT_CHECKPOINTING``.
        half: with ``SOLVER.AMP.ENABLED``; bfloat16 has the size of float16.
    """
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.DEVICE, cfg.MODEL.WEIGHTS, cfg.VIS_PERIOD = "cpu", "", 0
    cfg.MODEL.DETR.GRADIENT_CHECKPOINTING = checkpointing
    model = build_model(cfg).train()
    optimizer = build_optimizer(cfg, model)

    def step(shape: BatchShape) -> None:
        """One of the training."""
        training = TrainStep(
            model=model,
            data_loader=[make_batch(shape, cfg.MODEL.DETR.NUM_CLASSES)],
            optimizer=optimizer,
            amp_dtype=torch.bfloat16 if half else None,
        )
        with EventStorage():
            training.run_step()
        optimizer.zero_grad()

    average = cfg.MODEL.EMA.ENABLED
    shapes = measured_shapes(cfg)
    return measure_training_memory(model, optimizer, step, shapes, average=average)


def largest_image(cfg: CfgNode) -> tuple[int, int]:
    """Height and width of the largest image that a configuration trains on, on its side."""
    sizes = cfg.INPUT.MIN_SIZE_TRAIN
    short = max([sizes] if isinstance(sizes, int) else sizes)
    return short, max(short, cfg.INPUT.MAX_SIZE_TRAIN)


def measured_shapes(cfg: CfgNode) -> list[BatchShape]:
    """Small images of the same form as those of the training, alone and in pairs."""
    height, width = largest_image(cfg)
    least = math.sqrt(_PIXELS_PER_QUERY * cfg.MODEL.DETR.NUM_QUERIES * height / width)
    side = max(_SMALLEST_SIDE, least)
    small, large = (
        (_round_up(length), _round_up(length * width / height)) for length in (side, _GROWTH * side)
    )
    return [BatchShape(1, *small), BatchShape(2, *small), BatchShape(1, *large)]


def _round_up(value: float) -> int:
    return _MULTIPLE * math.ceil(value / _MULTIPLE)


def make_batch(shape: BatchShape, num_classes: int) -> list[dict[str, Any]]:
    """Images of noise with objects, as a loader gives them.

    Args:
        shape: of the batch.
        num_classes: that objects may have.
    """
    images, height, width = shape
    random = torch.Generator().manual_seed(0)
    size = torch.tensor([width, height])
    batch = []
    for _ in range(images):
        instances = Instances((height, width))
        corners = torch.rand(NUM_OBJECTS, 2, generator=random) * size / 2
        sides = (0.1 + 0.3 * torch.rand(NUM_OBJECTS, 2, generator=random)) * size
        instances.gt_boxes = Boxes(torch.cat((corners, corners + sides), 1))
        instances.gt_classes = torch.randint(num_classes, (NUM_OBJECTS,), generator=random)
        pixels = torch.randint(256, (3, height, width), dtype=torch.uint8, generator=random)
        batch.append({"image": pixels, "instances": instances})
    return batch


def make_plan(
    cfg: CfgNode, memory: TrainingMemory, variant: tuple[bool, bool], limit: float
) -> Plan:
    """The largest batch that fits and divides that of the configuration.

    Args:
        cfg: complete configuration.
        memory: of the variant.
        variant: checkpointing, and half precision.
        limit: bytes.
    """
    checkpointing, half = variant
    precision = "half" if half else "float32"
    size = largest_image(cfg)
    total = cfg.SOLVER.IMS_PER_BATCH * cfg.SOLVER.ACCUMULATION_STEPS
    most = memory.most_images(limit, *size)
    for batch in sorted(divisors(total), reverse=True):
        steps = total // batch
        peak = memory.peak(BatchShape(batch, *size), steps)
        if peak <= limit:
            return Plan(precision, checkpointing, batch, steps, peak, most)
    peak = memory.peak(BatchShape(1, *size), total)
    return Plan(precision, checkpointing, 0, 0, peak, most)


def divisors(number: int) -> Iterator[int]:
    """All numbers that divide another one."""
    return (n for n in range(1, number + 1) if number % n == 0)


def table(plans: Sequence[Plan]) -> str:
    """A row of each way to train."""
    rows = [
        [
            plan.precision,
            "yes" if plan.checkpointing else "no",
            plan.batch or "does not fit",
            plan.accumulation_steps or "",
            gigabytes(plan.peak),
            plan.most,
        ]
        for plan in plans
    ]
    headers = ["precision", "checkpointing", "batch", "accumulation", "peak (GB)", "most images"]
    return str(tabulate(rows, headers, disable_numparse=True))


def advice(plans: Sequence[Plan], limit: float) -> str:
    """The options of the plan with the largest batch, of several of the least intrusive one."""
    best = max(plans, key=lambda plan: plan.batch)
    if not best.batch:
        return f"No way to train fits into {gigabytes(limit)} GB: take smaller images or models"
    options = {
        "SOLVER.IMS_PER_BATCH": best.batch,
        "SOLVER.ACCUMULATION_STEPS": best.accumulation_steps,
        "MODEL.DETR.GRADIENT_CHECKPOINTING": best.checkpointing,
        "SOLVER.AMP.ENABLED": best.precision == "half",
    }
    text = " ".join(f"{key} {value}" for key, value in options.items())
    return f"The largest batch of one device of {gigabytes(limit)} GB: --opts {text}"


def gigabytes(number: float) -> str:
    """Bytes in units of 10^9."""
    return f"{number / 1e9:.2f}"
