"""Time of a training step with all checks, relative to a step of detectron2's own trainer.

    python dev/benchmark_training_step.py [--config-file NAME_OR_PATH] [--size 256] [--rounds 30]
                                          [--small]

Two trainers with the same weights take turns on the same images in memory: ``DetrTrainer``, whose
steps are seeded, checked for what is not finite, ended by signals and known to other processes,
and detectron2's ``DefaultTrainer`` with the same optimiser and the same bound of the gradient.
Both have their hooks, and neither saves or evaluates. Prints medians of the time and of the
processor time of a step, and of the ratios within a round. ``--small`` takes a detector whose
step takes milliseconds: what the checks cost there, in milliseconds, is what they cost a step on
a fast GPU.
"""

from __future__ import annotations

import argparse
import itertools
import logging
import os
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.engine import DefaultTrainer, TrainerBase
from detectron2.utils.events import EventStorage
from torch import nn
from torch.nn.utils import clip_grad_norm_

from lite_focus_detr import model_zoo
from lite_focus_detr.data import register_datasets
from lite_focus_detr.engine import DetrTrainer

#: Different batches.
BATCHES = 8
SMALL = {
    "MODEL.BACKBONE.NAME": "build_timm_backbone",
    "MODEL.TIMM.NAME": "test_resnet",
    "MODEL.DETR.EMBED_DIM": 32,
    "MODEL.DETR.NUM_HEADS": 2,
    "MODEL.DETR.NORM_GROUPS": 8,
    "MODEL.DETR.NUM_QUERIES": 20,
    "MODEL.DETR.ENCODER.NUM_LAYERS": 1,
    "MODEL.DETR.ENCODER.FFN_DIM": 32,
    "MODEL.DETR.DECODER.NUM_LAYERS": 1,
    "MODEL.DETR.DECODER.FFN_DIM": 32,
    "MODEL.DETR.DENOISING.NUM": 10,
}


class Checked(DetrTrainer):
    """The trainer of this project, on batches in memory."""

    batches: tuple[Any, ...] = ()

    @classmethod
    def build_train_loader(cls, cfg: CfgNode, stream: Any = None) -> Iterator[Any]:
        """The same batches again and again."""
        if not cls.batches:
            loader = super().build_train_loader(cfg, stream)
            Checked.batches = tuple(itertools.islice(loader, BATCHES))
        return itertools.cycle(cls.batches)


class Plain(DefaultTrainer):  # type: ignore[misc]
    """That of detectron2, on the same batches."""

    def __init__(self, cfg: CfgNode) -> None:
        """Build it; the bound of the gradient is part of the recipe, not a check."""
        super().__init__(cfg)
        parameters = list(self.model.parameters())
        bound = cfg.SOLVER.CLIP_GRADIENTS.CLIP_VALUE
        self._trainer.after_backward = lambda: clip_grad_norm_(parameters, bound)

    @classmethod
    def build_train_loader(cls, cfg: CfgNode) -> Iterator[Any]:
        """The same batches again and again."""
        return itertools.cycle(Checked.batches)

    @classmethod
    def build_optimizer(cls, cfg: CfgNode, model: nn.Module) -> torch.optim.Optimizer:
        """That of this project."""
        return DetrTrainer.build_optimizer(cfg, model)


def configuration(config_file: str, size: int, folder: str, *, small: bool) -> CfgNode:
    """Of a detector of the model zoo that neither learns nor saves anything."""
    cfg = model_zoo.get_config(config_file)
    settings = {
        **(SMALL if small else {}),
        "MODEL.DEVICE": "cuda" if torch.cuda.is_available() else "cpu",
        "MODEL.WEIGHTS": "",
        "MODEL.DETR.NUM_CLASSES": 3,
        "DATASETS.TRAIN": ("shapes_train",),
        "DATASETS.TEST": (),
        "DATASETS.SHAPES.NUM_TRAIN": 16,
        "DATASETS.SHAPES.IMAGE_SIZE": size,
        "DATASETS.SHAPES.ROOT": os.path.join(folder, "shapes"),
        "DATALOADER.NUM_WORKERS": 0,
        "INPUT.MIN_SIZE_TRAIN": (size,),
        "INPUT.CROP.ENABLED": False,
        "SOLVER.BASE_LR": 0.0,
        "SOLVER.EPOCHS": 0,
        "SOLVER.STEPS": (),
        "SOLVER.MAX_ITER": 10**9,
        "SOLVER.CHECKPOINT_PERIOD": 10**9,
        "SOLVER.IMS_PER_BATCH": 2,
        "OUTPUT_DIR": folder,
        "SEED": 0,
    }
    for key, value in settings.items():
        cfg.merge_from_list([key, value])
    return cfg


def begin(trainer: TrainerBase) -> Callable[[], None]:
    """A function that takes a step of a trainer with its hooks."""
    trainer.iter = 0
    trainer.storage = EventStorage(0)
    with trainer.storage:
        trainer.before_train()

    def step() -> None:
        with trainer.storage:
            trainer.before_step()
            trainer.run_step()
            trainer.after_step()
        trainer.storage.step()
        trainer.iter += 1

    return step


def measure(
    checked: Callable[[], None], plain: Callable[[], None], rounds: int
) -> list[tuple[float, float, float, float]]:
    """Seconds of a step of both, and processor seconds of both, for each round."""
    rows = []
    for number in range(rounds + 2):
        times = {}
        for step in (checked, plain) if number % 2 else (plain, checked):
            start, processor = time.perf_counter(), time.process_time()
            step()
            times[step] = time.perf_counter() - start, time.process_time() - processor
        rows.append(tuple(times[step][n] for n in (0, 1) for step in (checked, plain)))
    return rows[2:]  # the first are of allocations


def report(name: str, pairs: list[tuple[float, float]]) -> str:
    """Medians of both and of their ratio and difference."""
    checked, plain = (1e3 * statistics.median(values) for values in zip(*pairs, strict=True))
    ratio = statistics.median(a / b for a, b in pairs)
    more = 1e3 * statistics.median(a - b for a, b in pairs)
    return (
        f"{name}: {checked:.2f} ms with checks, {plain:.2f} ms without, {more:+.2f} ms, "
        f"ratio {ratio:.4f}\n"
    )


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config-file", default="deformable_detr/dino_r50_12ep")
    parser.add_argument("--size", type=int, default=256, help="pixels of the sides of images")
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--small", action="store_true")
    args = parser.parse_args()
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    with tempfile.TemporaryDirectory() as folder:
        cfg = configuration(args.config_file, args.size, folder, small=args.small)
        register_datasets(cfg)
        checked, plain = Checked(cfg), Plain(cfg)
        plain.model.load_state_dict(checked.model.state_dict())
        rows = measure(begin(checked), begin(plain), args.rounds)
        for trainer in (checked, plain):
            for writer in trainer.writers if hasattr(trainer, "writers") else ():
                writer.close()
    sys.stdout.write(
        f"{torch.get_num_threads()} threads, PyTorch {torch.__version__}, {args.rounds} rounds, "
        f"load {os.getloadavg()[0]:.1f}\n"
        + report("time", [row[:2] for row in rows])
        + report("processor time", [row[2:] for row in rows])
    )


if __name__ == "__main__":
    main()
