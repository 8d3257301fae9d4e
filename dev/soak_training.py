"""Resident memory of a training over many iterations with images of varying sizes.

    python dev/soak_training.py [--iterations 3000] [--warm-up 2000] [--config-file NAME_OR_PATH]
    python dev/soak_training.py --small-caches --iterations 1000 --warm-up 100

Trains a small detector on generated images, resized and cropped to sides of 32 to 160 pixels, with
averaged weights and a checkpoint every 100 iterations of which the newest two are kept. Prints the
resident memory every 50 iterations and, by least squares over all iterations after the warm-up,
its slope in MB per 100 iterations. oneDNN keeps what it has compiled for up to 1,024 shapes, so the
memory grows with the sizes that have been seen for about 2,000 iterations. The objects that Python
holds are counted as well: a leak of them grows with the iterations, and what an allocator keeps
does not. ``--small-caches`` keeps what the libraries hold back small, so that what is left to grow
is the training's own, from the first iterations on. Exits with 1 if the slope reaches the limit.
"""

# ruff: noqa: T201
from __future__ import annotations

import argparse
import gc
import logging
import os
import sys
import tempfile
import warnings
from pathlib import Path

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.engine import HookBase

from lite_focus_detr import model_zoo
from lite_focus_detr.data import register_datasets
from lite_focus_detr.engine import DetrTrainer

MEGABYTE = 2**20
#: Iterations between two lines of the report.
PERIOD = 50

#: What makes a detector of the model zoo train in a fraction of a second.
SMALL = {
    "MODEL.DEVICE": "cpu",
    "MODEL.WEIGHTS": "",
    "MODEL.BACKBONE.NAME": "build_timm_backbone",
    "MODEL.TIMM.NAME": "test_resnet",
    "MODEL.DETR.NUM_CLASSES": 3,
    "MODEL.DETR.EMBED_DIM": 32,
    "MODEL.DETR.NUM_HEADS": 2,
    "MODEL.DETR.NORM_GROUPS": 8,
    "MODEL.DETR.NUM_QUERIES": 20,
    "MODEL.DETR.ENCODER.NUM_LAYERS": 1,
    "MODEL.DETR.ENCODER.FFN_DIM": 32,
    "MODEL.DETR.DECODER.NUM_LAYERS": 2,
    "MODEL.DETR.DECODER.FFN_DIM": 32,
    "MODEL.DETR.DENOISING.NUM": 10,
    "MODEL.EMA.ENABLED": True,
    "DATASETS.TRAIN": ("shapes_train",),
    "DATASETS.TEST": (),
    "DATASETS.SHAPES.NUM_TRAIN": 64,
    "DATASETS.SHAPES.IMAGE_SIZE": 128,
    "DATALOADER.NUM_WORKERS": 0,
    "INPUT.MIN_SIZE_TRAIN": (32, 160),
    "INPUT.MIN_SIZE_TRAIN_SAMPLING": "range",
    "INPUT.MAX_SIZE_TRAIN": 160,
    "INPUT.CROP.RESIZE": (96, 128, 160),
    "INPUT.CROP.SIZE": (32, 160),
    "SOLVER.EPOCHS": 0,
    "SOLVER.IMS_PER_BATCH": 2,
    "SOLVER.CHECKPOINT_PERIOD": 100,
    "SOLVER.CHECKPOINT_KEEP": 2,
    "SEED": 0,
}


#: Settings of oneDNN and of the allocator of glibc, which read them when a process begins.
SMALL_CACHES = {
    "ONEDNN_PRIMITIVE_CACHE_CAPACITY": "64",
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_THRESHOLD_": "65536",
}


class MemoryWatch(HookBase):
    """Notes the resident memory of this process and the images' sizes of each step."""

    def __init__(self) -> None:
        """Begin with none."""
        self.resident: list[int] = []  #: bytes after each step
        self.objects: list[int] = []  #: that Python's collector knows, every ``PERIOD`` steps

    def after_step(self) -> None:
        """Read the memory; print it from time to time."""
        self.resident.append(resident_memory())
        number = len(self.resident)
        if number % PERIOD == 0:
            gc.collect()
            self.objects.append(len(gc.get_objects()))
            memory = self.resident[-1] / MEGABYTE
            print(f"{number:6d} {memory:9.1f} MB {self.objects[-1]:9d} objects", flush=True)


def resident_memory() -> int:
    """Bytes of this process that are in memory."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def slope(values: list[int]) -> float:
    """Growth per step, by least squares."""
    return float(np.polyfit(np.arange(len(values)), values, 1)[0])


def configuration(config_file: str, iterations: int, folder: str) -> CfgNode:
    """Of a small detector that is trained in a folder."""
    cfg = model_zoo.get_config(config_file)
    for key, value in SMALL.items():
        cfg.merge_from_list([key, value])
    cfg.SOLVER.MAX_ITER, cfg.SOLVER.STEPS = iterations, ()
    cfg.DATASETS.SHAPES.ROOT = os.path.join(folder, "shapes")
    cfg.OUTPUT_DIR = os.path.join(folder, "output")
    os.mkdir(cfg.OUTPUT_DIR)
    return cfg


def processor() -> str:
    """Name of the processor."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((x.partition(":")[2].strip() for x in lines if x.startswith("model name")), "?")


def main() -> int:
    """Run the command; returns its exit code."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    default = "deformable_detr/dino_r50_12ep"
    parser.add_argument("--config-file", default=default)
    parser.add_argument("--iterations", type=int, default=3000)
    parser.add_argument("--warm-up", type=int, default=2000, help="iterations that do not count")
    parser.add_argument("--limit", type=float, default=1.0, help="MB per 100 iterations")
    parser.add_argument("--small-caches", action="store_true", help="of oneDNN and glibc")
    args = parser.parse_args()
    if args.small_caches and not os.environ.keys() >= SMALL_CACHES.keys():
        os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | SMALL_CACHES)
    if args.iterations - args.warm_up < 2:
        parser.error("--iterations must be at least two more than --warm-up")
    warnings.filterwarnings("ignore")
    logging.disable(logging.INFO)
    watch = MemoryWatch()
    with tempfile.TemporaryDirectory() as folder:
        cfg = configuration(args.config_file, args.iterations, folder)
        register_datasets(cfg)
        trainer = DetrTrainer(cfg)
        trainer.register_hooks([watch])
        trainer.train()
    growth = slope(watch.resident[args.warm_up :]) * 100 / MEGABYTE
    after = len(watch.resident) - args.warm_up
    print(
        f"{processor()}, {torch.get_num_threads()} threads, PyTorch {torch.__version__}: "
        f"{growth:+.3f} MB per 100 iterations, over the last {after} of {len(watch.resident)}"
    )
    return int(growth >= args.limit)


if __name__ == "__main__":
    sys.exit(main())
