"""Compares the memory that ``analyze --fit`` predicts with that of whole trainings.

    python dev/check_memory_plan.py [NUMBER ...]

Trains each of thirteen configurations for two steps in a process of its own, from building it
on, and compares its resident memory at the largest moment with the prediction, made from
a few steps with smaller images. Exits with 1 if one of them differs by more than 10 %. Needs Linux,
and up to 3 GB of memory.
"""

# ruff: noqa: T201
from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from detectron2.utils.events import EventStorage

from lite_focus_detr import model_zoo
from lite_focus_detr.analysis.training_memory import BatchShape
from lite_focus_detr.engine import EMAHook, TrainStep, build_optimizer
from lite_focus_detr.tools.benchmark.peak_memory import peak_memories
from lite_focus_detr.tools.memory_plan import make_batch, measure

LIMIT = 0.1


class Training(NamedTuple):
    """What is trained."""

    config: str
    shape: BatchShape
    checkpointing: bool = False
    half: bool = False
    average: bool = False
    accumulation_steps: int = 1


SMALL, LARGE = BatchShape(4, 320, 480), BatchShape(2, 320, 448)
TRAININGS = (
    Training("dino_small", SMALL),
    Training("dino_small", SMALL, checkpointing=True),
    Training("lite_dino_small", SMALL, half=True),
    Training("lite_dino_small", SMALL, checkpointing=True, average=True),
    Training("focus_dino_small", SMALL, accumulation_steps=2),
    Training("sparse_dino_small", SMALL),
    Training("lite_focus_dino_small", SMALL, average=True),
    Training("deformable_detr/dino_r50_12ep", BatchShape(1, 320, 448)),
    Training("lite_detr/lite_dino_h3l1_2p1x3_r50_36ep", LARGE, average=True, accumulation_steps=2),
    Training("focus_detr/focus_dino_r50_36ep", LARGE, half=True),
    Training("deformable_detr/deformable_detr_r50_50ep", LARGE, checkpointing=True),
    Training("sparse_detr/sparse_deformable_detr_two_stage_r50_50ep", BatchShape(1, 320, 448)),
    # An image of full size, ten times larger than those that the prediction is made from.
    Training("lite_detr/lite_dino_h3l1_2p1x3_r50_36ep", BatchShape(1, 800, 1333)),
)


def load(training: Training) -> CfgNode:
    """The configuration of a training."""
    options = {
        "MODEL.DEVICE": "cpu",
        "MODEL.WEIGHTS": "",
        "MODEL.DETR.GRADIENT_CHECKPOINTING": training.checkpointing,
        "MODEL.EMA.ENABLED": training.average,
    }
    words = [str(word) for pair in options.items() for word in pair]
    return model_zoo.get_config(training.config, words)


def train(training: Training) -> object:
    """Two steps from the beginning on."""
    cfg = load(training)
    model = build_model(cfg).train()
    optimizer = build_optimizer(cfg, model)
    average = EMAHook(model=model, decay=0.9) if training.average else None
    batch = make_batch(training.shape, cfg.MODEL.DETR.NUM_CLASSES)
    step = TrainStep(
        model=model,
        data_loader=[batch] * (2 * training.accumulation_steps),
        optimizer=optimizer,
        accumulation_steps=training.accumulation_steps,
        amp_dtype=torch.bfloat16 if training.half else None,
    )
    with EventStorage():
        step.run_step()
        step.run_step()
    return average


def make_workloads(numbers: Sequence[int]) -> dict[int, Callable[[], object]]:
    """The trainings of some numbers, for :func:`peak_memories`."""
    return {number: partial(train, TRAININGS[number]) for number in numbers}


def predict(training: Training) -> float:
    """Bytes of a training, as ``analyze --fit`` has them."""
    memory = measure(load(training), training.checkpointing, training.half)
    return memory.peak(training.shape, training.accumulation_steps)


def main() -> int:
    """Run the command; returns its exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("numbers", nargs="*", type=int, default=range(len(TRAININGS)))
    worst = 0.0
    for number in parser.parse_args().numbers:
        training = TRAININGS[number]
        # A process for each: what others leave behind is not theirs.
        measured = peak_memories(partial(make_workloads, [number]), "cpu")[number]
        assert measured is not None
        ratio = predict(training) / measured
        worst = max(worst, abs(ratio - 1))
        print(f"{number:2} {ratio:6.3f} of {measured / 1e6:7.1f} MB  {training}", flush=True)
    print(f"at most {worst:.1%} apart")
    return int(worst > LIMIT)


if __name__ == "__main__":
    sys.exit(main())
