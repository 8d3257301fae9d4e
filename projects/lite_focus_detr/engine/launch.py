"""The processes of a run: started here, or by torchrun or SLURM."""

from __future__ import annotations

import argparse
import errno
import logging
import os
import pickle
import re
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from multiprocessing import connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import torch
import torch.distributed as dist
from detectron2.engine import default_argument_parser
from detectron2.utils import comm
from torch.distributed import distributed_c10d
from torch.distributed.rendezvous import rendezvous
from torch.multiprocessing.spawn import start_processes

from . import signals
from .peers import TIMEOUT_VARIABLE, collective_timeout, peer_timeout
from .setup import REPORT_FILE, report, user_errors

logger = logging.getLogger(__name__)

Main = Callable[[argparse.Namespace], Any]

# How long the other processes may take to end by themselves after the first one has failed, and
# after a request to end.
_FAILURE_SECONDS = 4.0
_REQUEST_SECONDS = 30.0
_KILL_SECONDS = 1.0
# For other threads, after a process has done its work.
_SETTLE_SECONDS = 0.5


class Place(NamedTuple):
    """Of a process among those of a run."""

    rank: int
    world_size: int
    local_rank: int
    local_world_size: int
    url: str
    """Where the processes meet."""
    launcher: str = ""
    """What has started them, if not this project."""


def run(main: Main, args: argparse.Namespace) -> None:
    """Call ``main(args)`` in as many processes as the command line or a launcher asks for.

    Under torchrun, and under ``srun`` of SLURM, this process is one of them. Otherwise
    ``--num-gpus`` processes are started here; without a GPU this is a number of CPU processes.

    SIGTERM, SIGUSR1 and Ctrl-C end all of them: in a training after the iteration and a
    checkpoint, with the exit status 128 + the signal's number; a second signal at once.
    """
    with user_errors():
        peer_timeout()
        place = find_place(os.environ, args)
        if place is None:
            _require_gpus(args.num_gpus)
    with signals.handled():
        try:
            if place is not None:
                _run_launched(main, args, place)
            elif args.num_gpus * args.num_machines > 1:
                run_spawned(main, args)
            else:
                main(args)
        except signals.Interrupted as interrupted:
            if not interrupted.reported:
                report(f"ended by {interrupted.signal_name}")
            _leave(interrupted)
        finally:
            signals.kill_children()


def find_place(environ: Mapping[str, str], args: argparse.Namespace) -> Place | None:
    """The place that a launcher has given to this process.

    Args:
        environ: variables of the environment.
        args: of detectron2's ``default_argument_parser``.

    Returns:
        None if there is no launcher, or if SLURM has one task only.

    Raises:
        ValueError: the variables do not fit together, or the command line asks for processes too.
    """
    try:
        place = _torchrun_place(environ) or _slurm_place(environ, args)
    except ValueError as error:
        raise ValueError(f"the variables of the launcher are wrong: {error}") from error
    if place is None or place.world_size == 1:
        return None
    if args.num_gpus * args.num_machines > 1:
        raise ValueError(
            f"{place.launcher} has started {place.world_size} processes and --num-gpus "
            f"{args.num_gpus} asks for more: leave --num-gpus and --num-machines out"
        )
    if place.world_size % place.local_world_size:
        raise ValueError(
            f"{place.world_size} processes, {place.local_world_size} of them on this machine: "
            "every machine must have as many"
        )
    return place


def _torchrun_place(environ: Mapping[str, str]) -> Place | None:
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
    if not all(name in environ for name in names):
        return None
    rank, world_size, local_rank = (int(environ[name]) for name in names[:3])
    local_world_size = int(environ.get("LOCAL_WORLD_SIZE", world_size))
    return Place(rank, world_size, local_rank, local_world_size, "env://", "torchrun")


def _slurm_place(environ: Mapping[str, str], args: argparse.Namespace) -> Place | None:
    tasks = environ.get("SLURM_STEP_NUM_TASKS", environ.get("SLURM_NTASKS", "1"))
    given = "SLURM_PROCID" in environ and "SLURM_LOCALID" in environ
    if not given or int(tasks) == 1 or args.num_gpus * args.num_machines > 1:
        return None
    per_node = environ.get("SLURM_STEP_TASKS_PER_NODE", environ.get("SLURM_TASKS_PER_NODE", tasks))
    local = re.match(r"\d+", per_node)
    if local is None:
        raise ValueError(f"SLURM_TASKS_PER_NODE is {per_node!r}")
    nodes = environ.get("SLURM_STEP_NODELIST", environ.get("SLURM_NODELIST", "127.0.0.1"))
    host = environ.get("MASTER_ADDR", first_host(nodes))
    # The same on all machines, and another for another step of the job.
    job, step = (int(environ.get(f"SLURM_{name}", 0)) for name in ("JOB_ID", "STEP_ID"))
    port = environ.get("MASTER_PORT", str(20000 + (job * 37 + step) % 20000))
    return Place(
        rank=int(environ["SLURM_PROCID"]),
        world_size=int(tasks),
        local_rank=int(environ["SLURM_LOCALID"]),
        local_world_size=int(local.group()),
        url=f"tcp://{host}:{port}",
        launcher="SLURM",
    )


def first_host(nodes: str) -> str:
    """First name of a list of SLURM: ``gpu07`` of ``gpu[07-09,12],cpu1``."""
    match = re.match(r"([^\[,]+)(?:\[(\w+)[^\]]*\]([^,\[]*))?", nodes)
    if match is None:
        raise ValueError(f"the list of nodes is {nodes!r}")
    return "".join(part or "" for part in match.groups())


def _require_gpus(number: int) -> None:
    available = torch.cuda.device_count()
    if available and number > available:
        raise ValueError(f"--num-gpus is {number}, but this machine has {available}")


def _run_launched(main: Main, args: argparse.Namespace, place: Place) -> None:
    """Be one of the processes that a launcher has started."""
    if int(os.environ.get("TORCHELASTIC_RESTART_COUNT", 0)) > 0:
        args.resume = True
    # The processes of a machine have one parent, and so one file to note a common error in.
    shared = Path(tempfile.gettempdir(), f"lite_focus_detr_{os.getuid()}_{os.getppid()}")
    if place.local_rank == 0:
        shared.write_text("", encoding="utf-8")
    os.environ[REPORT_FILE] = str(shared)
    try:
        _join_and_run(main, args, place)
    finally:
        del os.environ[REPORT_FILE]
        if place.local_rank == 0:
            shared.unlink(missing_ok=True)


def _join_and_run(main: Main, args: argparse.Namespace, place: Place) -> None:
    """Meet the other processes and call ``main``."""
    with user_errors():
        has_gpu = torch.cuda.is_available()
        if has_gpu:
            _require_gpus(place.local_world_size)
            torch.cuda.set_device(place.local_rank)
        try:
            with signals.unhandled():
                _meet(place, "nccl" if has_gpu else "gloo")
        except (RuntimeError, dist.DistError) as error:
            raise ValueError(
                f"rank {place.rank} has not met the other {place.world_size - 1} processes at "
                f"{place.url} ({str(error).splitlines()[0]}): start all of them within "
                f"{TIMEOUT_VARIABLE} seconds, and look at the address"
            ) from error
        comm.create_local_process_group(place.local_world_size)
    main(args)
    dist.destroy_process_group()
    # Threads of gloo may still have to let go of tensors, for which they need the interpreter.
    # Python ends threads that ask for it while it is taken apart, which aborts the process.
    time.sleep(_SETTLE_SECONDS)


def _meet(place: Place, backend: str) -> None:
    """Make the process group, as soon as all processes are there."""
    store, rank, world_size = next(
        rendezvous(place.url, place.rank, place.world_size, timeout=peer_timeout())
    )
    store.set_timeout(peer_timeout())
    # Without --rdzv-backend torchrun keeps its store, with the addresses of processes that are
    # gone, for all starts of a run.
    start = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    prefix = f"start {start}" if os.environ.get("TORCHELASTIC_RUN_ID") == "none" else "start"
    dist.init_process_group(
        backend,
        store=distributed_c10d.PrefixStore(prefix, store),
        world_size=world_size,
        rank=rank,
        timeout=collective_timeout(),
    )


def run_spawned(main: Main, args: argparse.Namespace) -> None:
    """Start the processes of this machine and wait for them."""
    with user_errors():
        url = meeting_point(args)
    end: SystemExit | None = None
    with tempfile.NamedTemporaryFile(prefix="lite_focus_detr_") as shared, signals.deferred():
        os.environ[REPORT_FILE] = shared.name
        try:
            context = start_processes(  # type: ignore[no-untyped-call]
                _spawned, (os.getpid(), main, args, url), nprocs=args.num_gpus, join=False
            )
            failed = _wait_for(context.processes)
            if signals.requested():
                end = signals.Interrupted(signals.requested(), reported=True)
            elif failed is not None:
                end = _failure(failed, context)
            for file in context.error_files:
                Path(file).unlink(missing_ok=True)
        finally:
            del os.environ[REPORT_FILE]
    if end is not None:
        _leave(end)


def _spawned(local_rank: int, parent: int, main: Main, args: argparse.Namespace, url: str) -> None:
    """Body of a process that ``run_spawned`` has started."""
    signals.die_with(parent)
    rank = args.machine_rank * args.num_gpus + local_rank
    place = Place(rank, args.num_machines * args.num_gpus, local_rank, args.num_gpus, url)
    with signals.handled():
        try:
            _join_and_run(main, args, place)
        except SystemExit as end:
            _leave(end)
        finally:
            signals.kill_children()


def _leave(end: SystemExit) -> None:
    """Exit without taking the interpreter apart, which can last for seconds."""
    status = end.code
    if isinstance(status, str):
        report(status)
        status = 1
    logging.shutdown()
    signals.leave(status or 0)


def meeting_point(args: argparse.Namespace) -> str:
    """Where spawned processes meet: ``--dist-url``, with a free port where it may be chosen.

    Raises:
        ValueError: the port is in use, or ``auto`` is asked for with several machines.
    """
    url = str(args.dist_url)
    single = args.num_machines == 1
    if url == "auto":
        if not single:
            raise ValueError("--dist-url auto is for one machine; give tcp://FIRST_MACHINE:PORT")
        return f"tcp://127.0.0.1:{_free_port()}"
    parts = urlsplit(url)
    if parts.scheme != "tcp" or args.machine_rank > 0 or _is_free(parts.port or 0):
        return url
    if single and url == default_argument_parser().get_default("dist_url"):
        return f"tcp://127.0.0.1:{_free_port()}"
    raise ValueError(
        f"port {parts.port} of --dist-url {url} is in use; give another"
        + (", or --dist-url auto" if single else "")
    )


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", port))
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                return False
            raise
    return True


def _wait_for(processes: list[BaseProcess]) -> int | None:
    """Wait until all have ended; a signal is passed on, a failure ends the others.

    Returns:
        index of the first that has failed, if any.
    """
    failed: int | None = None
    deadline = float("inf")
    passed_on = 0
    while alive := [process for process in processes if process.is_alive()]:
        _wait(alive, 0.2)
        if signals.requested() and not passed_on:
            passed_on = signals.requested()
            _send(alive, passed_on)
        if failed is None and (failed := _first_cause(processes)) is not None:
            patience = _REQUEST_SECONDS if passed_on else _FAILURE_SECONDS
            deadline = time.monotonic() + patience
        if time.monotonic() > deadline:
            _end(alive)
    return _first_cause(processes) if failed is None else failed


def _first_cause(processes: list[BaseProcess]) -> int | None:
    """Of those that have failed, one that was killed: others fail because of it."""
    codes = {i: process.exitcode for i, process in enumerate(processes) if process.exitcode}
    return min(codes, key=codes.__getitem__, default=None)


def _end(processes: list[BaseProcess]) -> None:
    _send(processes, signal.SIGTERM)
    _wait(processes, _KILL_SECONDS)
    _send(processes, signal.SIGKILL)


def _wait(processes: list[BaseProcess], seconds: float) -> None:
    """Until one of them has ended, and no longer than some seconds."""
    connection.wait([process.sentinel for process in processes], timeout=seconds)


def _send(processes: list[BaseProcess], number: int) -> None:
    for process in processes:
        if process.is_alive() and process.pid is not None:
            os.kill(process.pid, number)


def _failure(index: int, context: Any) -> SystemExit:
    """The exit status of a process that failed, after what it could not say itself."""
    process = context.processes[index]
    code = process.exitcode
    if code < 0:
        name = signal.Signals(-code).name
        hint = " (out of memory?)" if name == "SIGKILL" else ""
        report(
            f"error: rank {index} (process {process.pid}) was ended by {name}{hint}: all "
            "processes stop. Continue with --resume"
        )
        return SystemExit(1)
    trace = Path(context.error_files[index])
    if trace.is_file():  # an exception, which the process itself has not shown
        sys.stderr.write(pickle.loads(trace.read_bytes()))
    return SystemExit(code)
