"""Preparation of a run and its processes, and a user's mistake in one line."""

from __future__ import annotations

import argparse
import fcntl
import logging
import os
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.engine import default_setup, launch
from detectron2.utils import comm
from detectron2.utils.logger import setup_logger
from torch.multiprocessing.spawn import ProcessExitedException

from ..config import require_registered
from ..data import DataError, register_datasets
from ..data.validation import check_datasets
from .checkpoint_io import WriteError
from .log_writers import keep_logging
from .nonfinite import NonFiniteError

logger = logging.getLogger(__name__)

#: What ends a training or an evaluation without a bug: the data, the numbers, the disk.
RUN_ERRORS = (DataError, NonFiniteError, WriteError)

# Names the file in which the first process of a machine notes that it has reported an error.
_REPORT_FILE = "LITE_FOCUS_DETR_REPORT_FILE"
# Their ValueErrors are about calls, not about what the user has written.
_NUMERIC_LIBRARIES = frozenset(("torch", "torchvision", "timm", "numpy", "scipy"))


def prepare_run(cfg: CfgNode, args: argparse.Namespace) -> None:
    """Check and prepare everything that a training or an evaluation depends on.

    Logging is set up, the data sets are registered, the random generators are seeded, and the
    configuration is frozen and saved in ``OUTPUT_DIR``.

    Args:
        cfg: checked configuration.
        args: of detectron2's ``default_argument_parser``.

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
    try:
        # Those of detectron2 are set up here, as default_setup does it, to be told what to do when
        # the disk is full before they write.
        loggers = ("fvcore", "detectron2", "lite_focus_detr")
        for name in loggers:
            options = {} if name == "detectron2" else {"name": name}
            setup_logger(cfg.OUTPUT_DIR, distributed_rank=comm.get_rank(), **options)
        keep_logging(loggers)
        default_setup(cfg, args)
    except OSError as error:
        raise ValueError(f"cannot write to OUTPUT_DIR {cfg.OUTPUT_DIR}: {error}") from error
    logging.getLogger("detectron2.engine.train_loop").addFilter(_without_traceback)
    if no_gpu:
        logger.warning("There is no GPU: running on the CPU (MODEL.DEVICE cpu)")
    if cfg.MODEL.DEVICE == "cpu" and "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(compute_threads(os.cpu_count() or 1))
    register_datasets(cfg)
    check_datasets(cfg, eval_only=args.eval_only)


def compute_threads(num_cores: int) -> int:
    """Threads of this process that leave half of its cores to loader workers.

    The threads of a parallel region wait for each other in busy loops: with more threads than
    cores, small models become several times slower. The number of workers plays no part, because
    sums are rounded as they are split among threads, and a result shall not depend on workers.
    """
    return max(1, num_cores // comm.get_world_size() // 2)


def run(main: Callable[[argparse.Namespace], Any], args: argparse.Namespace) -> None:
    """Call ``main(args)`` in as many processes as the command line asks for.

    Without a GPU, ``--num-gpus`` is the number of CPU processes.
    """
    with user_errors():
        num_gpus = torch.cuda.device_count()
        if num_gpus and args.num_gpus > num_gpus:
            raise ValueError(f"--num-gpus is {args.num_gpus}, but this machine has {num_gpus}")
    _silence("torch.multiprocessing.spawn")
    with tempfile.NamedTemporaryFile(prefix="lite_focus_detr_") as report:
        os.environ[_REPORT_FILE] = report.name
        try:
            launch(
                main,
                args.num_gpus,
                num_machines=args.num_machines,
                machine_rank=args.machine_rank,
                dist_url=args.dist_url,
                args=(args,),
            )
        except ProcessExitedException as error:
            if error.signal_name is not None:
                raise
            sys.exit(error.exit_code)
        finally:
            del os.environ[_REPORT_FILE]


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
        raise SystemExit(_report_once(f"error: {line}")) from None


def _raised_by_library(error: Exception) -> bool:
    """Whether it says how a library was called: that is a bug, the user does not call it."""
    if not isinstance(error, ValueError):
        return False
    *_, (frame, _) = traceback.walk_tb(error.__traceback__)
    return str(frame.f_globals.get("__name__")).split(".")[0] in _NUMERIC_LIBRARIES


def _report_once(line: str) -> str | int:
    """What to exit with: the line, which then appears on stderr, or, where processes of one run
    meet the same error, the status 1 after the first of them has printed it.

    They take turns: none ends, which makes its parent end the others, before that has happened.
    """
    path = os.environ.get(_REPORT_FILE)
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
