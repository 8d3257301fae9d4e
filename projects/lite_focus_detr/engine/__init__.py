"""Training, evaluation and checkpoints on detectron2's engine."""

from .checkpoint_io import read_checkpoint
from .checkpointer import DetrCheckpointer
from .description import CheckpointDescription, describe_checkpoint, description_of
from .hooks import BudgetHook, EMAHook
from .launch import run
from .optimizer import build_optimizer
from .schedule import resolve_epochs
from .session import train_or_evaluate
from .setup import RUN_ERRORS, prepare_run, user_errors
from .train_step import TrainStep
from .trainer import DetrTrainer
from .weights_file import find_weights

__all__ = [
    "RUN_ERRORS",
    "BudgetHook",
    "CheckpointDescription",
    "DetrCheckpointer",
    "DetrTrainer",
    "EMAHook",
    "TrainStep",
    "build_optimizer",
    "describe_checkpoint",
    "description_of",
    "find_weights",
    "prepare_run",
    "read_checkpoint",
    "resolve_epochs",
    "run",
    "train_or_evaluate",
    "user_errors",
]
