"""Preparation of a run and its processes, and a user's mistake in one line."""

from __future__ import annotations

import argparse
import fcntl
import logging
import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from detectron2.config import CfgNode
from detectron2.engine import default_setup
from detectron2.utils import comm
from detectron2.utils.logger import setup_logger

from ..config import learning_rate_advice, load_config, require_registered
from ..data import DataError, register_datasets
from ..data.validation import check_datasets
from ..screen import set_up_screen
from .checkpoint_io import WriteError, remove_partial_files
from .log_writers import keep_logging
from .metrics import MetricError
from .nonfinite import NonFiniteError
from .output_lock import lock_output
from .summary import show_device

logger = logging.getLogger(__name__)

#: What ends a training or an evaluation without a bug: the data, a name, the numbers, the disk.
RUN_ERRORS = (DataError, MetricError, NonFiniteError, WriteError)

#: Names the file in which the first process of a machine notes that it has reported an error.
REPORT_FILE = "LITE_FOCUS_DETR_REPORT_FILE"
# Their ValueErrors are about calls, not about what the user has written.
_NUMERIC_LIBRARIES = frozenset(("torch", "torchvision", "timm", "numpy", "scipy"))


def prepare_run(cfg: CfgNode, args: argparse.Namespace) -> None:
    """Check and prepare everything that a training or an evaluation depends on.

    Logging is set up, the data sets are registered, the random generators are seeded, and the
    configuration is frozen and saved in ``OUTPUT_DIR``, which a training has for itself.

    Args:
        cfg: checked configuration.
        args: of detectron2's ``default_argument_parser``; ``resume`` becomes true when torchrun
            has started this training before.

    Raises:
        ValueError: what is wrong, where, and what to do about it.
    """
    require_registered(cfg)
    _check_device(cfg)
    _check_processes(cfg, eval_only=args.eval_only)
    # The default of detectron2 is a GPU.
    no_gpu = torch.device(cfg.MODEL.DEVICE).type == "cuda" and not torch.cuda.is_available()
    if no_gpu:
        cfg.MODEL.DEVICE = "cpu"
    cfg.freeze()
    _silence("torch.utils.cpp_extension")
    _take_output_dir(cfg.OUTPUT_DIR, args)
    try:
        # Those of detectron2 are set up here, as default_setup does it, to be told what to do when
        # the disk is full before they write.
        loggers = ("fvcore", "detectron2", "lite_focus_detr")
        for name in loggers:
            options = {} if name == "detectron2" else {"name": name}
            setup_logger(cfg.OUTPUT_DIR, distributed_rank=comm.get_rank(), **options)
        set_up_screen(loggers)
        keep_logging(loggers)
        default_setup(cfg, _for_log(args))
    except OSError as error:
        raise ValueError(f"cannot write to OUTPUT_DIR {cfg.OUTPUT_DIR}: {error}") from error
    logging.getLogger("detectron2.engine.train_loop").addFilter(_without_traceback)
    if cfg.MODEL.DEVICE == "cpu" and "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(compute_threads(os.cpu_count() or 1))
    show_device(cfg, no_gpu=no_gpu)
    register_datasets(cfg)
    check_datasets(cfg, eval_only=args.eval_only)
    _advise_learning_rate(cfg, args)


def _advise_learning_rate(cfg: CfgNode, args: argparse.Namespace) -> None:
    if args.eval_only or not args.opts:
        return
    try:
        recipe = load_config(args.config_file)
    except ValueError:  # it is no recipe without its options
        return
    advice = learning_rate_advice(cfg.SOLVER, recipe.SOLVER)
    if advice is not None:
        logger.warning("%s", advice)


def _for_log(args: argparse.Namespace) -> argparse.Namespace:
    """Arguments of which detectron2 shows the configuration file, if there is one."""
    if isinstance(args.config_file, str):
        return args
    return argparse.Namespace(**{**vars(args), "config_file": ""})


def _take_output_dir(folder: str, args: argparse.Namespace) -> None:
    """Lock a folder for the processes of a training and clear it of what a kill has left.

    The training is resumed if torchrun has started it in the folder before.
    """
    if args.eval_only:
        return
    error, restarted = "", False
    if comm.is_main_process():
        try:
            os.makedirs(folder, exist_ok=True)
            restarted = lock_output(folder)
            remove_partial_files(folder)
        except OSError as problem:
            error = f"cannot write to OUTPUT_DIR {folder}: {problem}"
        except ValueError as problem:
            error = str(problem)
    error, restarted = comm.all_gather((error, restarted))[0]
    if error:
        raise ValueError(error)
    args.resume = args.resume or restarted


def compute_threads(num_cores: int) -> int:
    """Threads of this process that leave half of its cores to loader workers.

    The threads of a parallel region wait for each other in busy loops: with more threads than
    cores, small models become several times slower. The number of workers plays no part, because
    sums are rounded as they are split among threads, and a result shall not depend on workers.
    """
    return max(1, num_cores // comm.get_world_size() // 2)


def report(line: str) -> None:
    """Show a line on stderr, once on each machine."""
    if isinstance(report_once(line), str):
        print(line, file=sys.stderr, flush=True)


@contextmanager
def user_errors(*mistakes: type[Exception]) -> Iterator[None]:
    """Turn a mistake of the user into one line on stderr and the exit status 1.

    Further lines of its message, such as tables, are logged. Other errors, those that are raised
    inside of PyTorch and its like, and all errors under ``python -X dev`` keep their traceback.

    Args:
        mistakes: by default ``ValueError``, ``OSError`` and ``DataError``, to be put around what
            reads the user's files and configuration, and nothing else.
    """
    mistakes = mistakes or (ValueError, OSError, DataError)
    try:
        yield
    except mistakes as error:
        if sys.flags.dev_mode or _raised_by_library(error):
            raise
        line, _, details = (str(error) or repr(error)).partition("\n")
        if details:
            logger.error("%s", details)
        raise SystemExit(report_once(f"error: {line}")) from None


def _raised_by_library(error: Exception) -> bool:
    """Whether it says how a library was called: that is a bug, the user does not call it."""
    if not isinstance(error, ValueError):
        return False
    *_, (frame, _) = traceback.walk_tb(error.__traceback__)
    return str(frame.f_globals.get("__name__")).split(".")[0] in _NUMERIC_LIBRARIES


def report_once(line: str) -> str | int:
    """What to exit with: the line, which then appears on stderr, or, where processes of one run
    meet the same error, the status 1 after the first of them has printed it.

    They take turns: none ends, which makes its parent end the others, before that has happened.
    """
    path = os.environ.get(REPORT_FILE)
    if path is None or not os.path.exists(path):  # the latter if someone has cleaned /tmp
        return line
    with open(path, "r+", encoding="utf-8") as report:
        fcntl.flock(report, fcntl.LOCK_EX)
        if not report.read():
            print(line, file=sys.stderr, flush=True)
            report.write(line)
    return 1


def _without_traceback(record: logging.LogRecord) -> bool:
    """detectron2 logs what ends a training: of these errors the line says all."""
    if record.exc_info and isinstance(record.exc_info[1], RUN_ERRORS):
        record.exc_info = None
        record.levelno, record.levelname = logging.INFO, logging.getLevelName(logging.INFO)
    return True


def _silence(name: str) -> None:
    """Keep warnings of a PyTorch module, about what is reported here anyway, off stderr."""
    logging.getLogger(name).setLevel(logging.ERROR)


def _check_device(cfg: CfgNode) -> None:
    try:
        torch.device(cfg.MODEL.DEVICE)
    except RuntimeError as error:
        line = str(error).splitlines()[0]
        raise ValueError(
            f"MODEL.DEVICE is {cfg.MODEL.DEVICE!r}: {line}; set cuda or cpu"
        ) from error


def _check_processes(cfg: CfgNode, *, eval_only: bool) -> None:
    world_size = comm.get_world_size()
    if cfg.SOLVER.IMS_PER_BATCH % world_size and not eval_only:
        raise ValueError(
            f"SOLVER.IMS_PER_BATCH {cfg.SOLVER.IMS_PER_BATCH} cannot be divided among {world_size} "
            "processes; make it a multiple"
        )
    # Where there is a GPU, detectron2 connects the processes by NCCL, which takes no CPU tensors.
    on_cpu = torch.device(cfg.MODEL.DEVICE).type == "cpu"
    if on_cpu and world_size > 1 and torch.cuda.is_available():
        raise ValueError(
            f"MODEL.DEVICE is {cfg.MODEL.DEVICE}, but {world_size} processes of a machine with "
            "GPUs need them; set MODEL.DEVICE cuda, use one process, or hide the GPUs with the "
            "environment variable CUDA_VISIBLE_DEVICES=''"
        )
