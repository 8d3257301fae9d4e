"""Training, evaluation and checkpoints on detectron2's engine."""

from .checkpointer import DetrCheckpointer
from .hooks import EMAHook
from .optimizer import build_optimizer
from .schedule import resolve_epochs
from .setup import load_config, run, setup, user_errors
from .train_step import TrainStep
from .trainer import DetrTrainer

__all__ = [
    "DetrCheckpointer",
    "DetrTrainer",
    "EMAHook",
    "TrainStep",
    "build_optimizer",
    "load_config",
    "resolve_epochs",
    "run",
    "setup",
    "user_errors",
]
