"""Kill a training again and again, resume it each time, and compare what it ends with.

    python dev/kill_and_resume.py [--kills 100] [--processes 1] [--seed 0] [--folder FOLDER]
                                  [KEY VALUE ...]

The tiny detector of the tests is trained once undisturbed, and once more with SIGKILL at random
moments: while it starts, between two checkpoints, and while it writes a checkpoint, which a file
that is not complete tells. After each kill the training is started with ``--resume``. No kill may
lose a checkpoint that was there, and at the end the weights, their average and the state of the
optimiser must be those of the undisturbed training, bit for bit. Otherwise the exit status is 1.

With several processes all of them are killed, or one, and then the others must end by themselves,
but for those that wait for it to start.

Every run is ``train_net.py`` in processes that are forked after the imports. The seed decides what
is drawn; where in a step a kill then comes depends on the machine.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import random
import runpy
import socket
import sys
import tempfile
import time
from collections import Counter
from multiprocessing.process import BaseProcess
from pathlib import Path

import torch
from detectron2.engine import default_argument_parser, defaults

from lite_focus_detr.engine import read_checkpoint, run
from lite_focus_detr.engine.checkpoint_io import named_tensors

ROOT = Path(__file__).resolve().parents[1]
FORK = multiprocessing.get_context("fork")
# The drawn moments reach 1.7 iterations after the last checkpoint on average, so that the training
# is still going on at the last kill.
ITERATIONS_PER_KILL = 4
PERIOD = 2
OPTIONS = (
    *("SEED", "3", "SOLVER.CHECKPOINT_PERIOD", str(PERIOD), "SOLVER.CHECKPOINT_KEEP", "3"),
    *("DATASETS.SHAPES.NUM_TRAIN", "9", "INPUT.MIN_SIZE_TRAIN", "(56, 64)"),
    *("MODEL.EMA.ENABLED", "True", "MODEL.EMA.DECAY", "0.9"),
    *("MODEL.DETR.ENCODER.DROPOUT", "0.1", "MODEL.DETR.DECODER.DROPOUT", "0.1"),
)
MOMENTS = ("starting", "training", "writing")
_POLL_SECONDS = 0.0005
_HANGS_SECONDS = 300.0
_WHOLE_SECONDS = 3600.0
# Other processes may wait for one that was killed before they have met: a launcher ends them.
_LAUNCHER_SECONDS = 10.0


class Training:
    """A training in a folder, of which one start at a time runs."""

    def __init__(self, folder: Path, options: list[str], num_processes: int) -> None:
        """Describe it.

        Args:
            folder: of its output and its data.
            options: ``KEY VALUE`` pairs.
            num_processes: that train together.
        """
        self.output = folder / "output"
        self.log = folder / "log.txt"
        self.main = runpy.run_path(str(ROOT / "train_net.py"))["main"]
        self.options = [*options, "OUTPUT_DIR", str(self.output)]
        self.num_processes = num_processes
        folder.mkdir(parents=True, exist_ok=True)

    def start(self, *flags: str, num_workers: int = 0) -> list[BaseProcess]:
        """Start all processes.

        Args:
            flags: such as ``--resume``.
            num_workers: processes that load the data.
        """
        config = str(ROOT / "tests/engine/tiny.yaml")
        workers = ("DATALOADER.NUM_WORKERS", str(num_workers))
        command = ["--config-file", config, *flags, *self.options, *workers]
        processes: list[BaseProcess] = [
            FORK.Process(target=self._in_child, args=(command, place))
            for place in places(self.num_processes)
        ]
        for process in processes:
            process.start()
        return processes

    def _in_child(self, command: list[str], place: dict[str, str]) -> None:
        log = os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(log, 1)
        os.dup2(log, 2)
        sys.stdout = os.fdopen(1, "w", buffering=1, closefd=False)
        sys.stderr = os.fdopen(2, "w", buffering=1, closefd=False)
        torch.set_num_threads(1)
        os.environ.update(place, OMP_NUM_THREADS="1")
        # Half of the time of a start, for the log only.
        defaults.collect_env_info = str
        sys.argv = ["train_net.py", *command]
        run(self.main, default_argument_parser().parse_args(command))

    def newest(self) -> str:
        """Name of the last checkpoint; they sort by their iterations, empty is before the first."""
        try:
            return (self.output / "last_checkpoint").read_text(encoding="utf-8")
        except FileNotFoundError:
            return ""

    def is_writing(self) -> bool:
        """Whether there is a checkpoint that is not complete."""
        return self.output.is_dir() and any(".pth.tmp" in x for x in os.listdir(self.output))

    def finish(self, processes: list[BaseProcess]) -> None:
        """Wait for the end.

        Raises:
            SystemExit: a process has failed.
        """
        self._join(processes, _WHOLE_SECONDS)
        for process in processes:
            if process.exitcode != 0:
                raise SystemExit(f"exit code {process.exitcode}, not 0: {self._end_of_log()}")

    def kill(
        self, processes: list[BaseProcess], victims: list[BaseProcess], moment: str, delay: float
    ) -> bool:
        """Kill processes some time after a moment, and wait for the end of the others.

        Args:
            processes: have just been started.
            victims: of them.
            moment: one of ``MOMENTS``.
            delay: in seconds.

        Returns:
            whether the training was going on until then.

        Raises:
            SystemExit: a process has failed by itself, or does not end.
        """
        before, start = self.newest(), time.monotonic()
        stale = set(self.output.glob("*.pth.tmp*"))

        def reached() -> bool:
            if moment == "writing":
                return self.is_writing() and not stale & set(self.output.glob("*.pth.tmp*"))
            return moment == "starting" or self.newest() != before

        while not reached() and all(process.is_alive() for process in processes):
            if time.monotonic() - start > _HANGS_SECONDS:
                self._join(processes, 0)
            time.sleep(_POLL_SECONDS)
        victims[0].join(delay)
        for process in victims:
            process.kill()
        if moment == "starting":
            for process in processes:
                process.join(_LAUNCHER_SECONDS)
                process.kill()
        self._join(processes)
        codes = [process.exitcode for process in victims]
        if not set(codes) <= {0, -9}:
            raise SystemExit(f"exit codes {codes} of a resumed training: {self._end_of_log()}")
        if self.newest() < before:
            raise SystemExit(f"a kill has lost {before}: the last checkpoint is {self.newest()}")
        return -9 in codes

    def _join(self, processes: list[BaseProcess], seconds: float = _HANGS_SECONDS) -> None:
        end = time.monotonic() + seconds
        for process in processes:
            process.join(max(0, end - time.monotonic()))
        hanging = [process for process in processes if process.is_alive()]
        for process in hanging:
            process.kill()
        if hanging:
            raise SystemExit(f"{len(hanging)} processes hang: {self._end_of_log()}")

    def _end_of_log(self) -> str:
        return self.log.read_text(encoding="utf-8", errors="replace")[-3000:]


def places(num_processes: int) -> list[dict[str, str]]:
    """The variables of torchrun for each of so many processes; none for a single one."""
    if num_processes == 1:
        return [{}]
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(probe.getsockname()[1])}
    meeting["WORLD_SIZE"] = str(num_processes)
    ranks = [str(rank) for rank in range(num_processes)]
    return [{**meeting, "RANK": rank, "LOCAL_RANK": rank} for rank in ranks]


def disturb(training: Training, kills: int, draw: random.Random, seconds: float) -> Counter[str]:
    """Kill and resume a training, then let it end.

    Args:
        training: has not been started.
        kills: how many.
        draw: draws the moments.
        seconds: that an undisturbed one takes from one checkpoint to the next.

    Returns:
        how many kills came at each moment; "in a file" counts those that have left a checkpoint
        that is not complete, "of one" those that have not killed all processes.

    Raises:
        SystemExit: a start has failed, a checkpoint is lost, or the training ended too early.
    """
    counts: Counter[str] = Counter()
    for number in range(kills):
        moment = draw.choice(MOMENTS)
        longest = {"starting": 10 * seconds, "training": seconds, "writing": seconds / 10}[moment]
        processes = training.start("--resume", num_workers=draw.choice((0, 0, 1)))
        # All, or one of several.
        victims = draw.choice([processes, *([process] for process in processes)])
        if not training.kill(processes, victims, moment, draw.uniform(0, longest)):
            raise SystemExit(f"ended after {number} kills: set SOLVER.MAX_ITER higher")
        counts[moment] += 1
        counts["of one"] += len(victims) < len(processes)
        counts["in a file"] += training.is_writing()
    training.finish(training.start("--resume"))
    return counts


def differences(first: Path, second: Path) -> list[str]:
    """Names of the tensors of two checkpoints that do not have the same bits."""
    ours, theirs = (dict(named_tensors(read_checkpoint(str(path)))) for path in (first, second))
    return [
        name
        for name in sorted(ours.keys() | theirs.keys())
        if name not in ours or name not in theirs or _bits(ours[name]) != _bits(theirs[name])
    ]


def _bits(tensor: torch.Tensor) -> tuple[object, ...]:
    content = tensor.reshape(-1).contiguous().view(torch.uint8).numpy().tobytes()
    return tensor.dtype, tensor.shape, content


def compare(folder: Path, kills: int, num_processes: int, seed: int, changes: list[str]) -> int:
    """Train undisturbed and disturbed; return the exit status.

    Args:
        folder: empty, for everything that is written.
        num_processes: of both trainings.
        kills: of the disturbed training.
        seed: of the moments.
        changes: ``KEY VALUE`` pairs for both.
    """
    iterations = max(ITERATIONS_PER_KILL * kills, 10)
    root = ("DATASETS.SHAPES.ROOT", str(folder / "shapes"))
    options = [*OPTIONS, *root, "SOLVER.MAX_ITER", str(iterations), *changes]
    whole = Training(folder / "whole", options, num_processes)
    processes = whole.start()
    while not whole.newest() and all(process.is_alive() for process in processes):
        time.sleep(_POLL_SECONDS)
    first = time.monotonic()
    whole.finish(processes)
    seconds = (time.monotonic() - first) * PERIOD / iterations

    disturbed = Training(folder / "disturbed", options, num_processes)
    counts = disturb(disturbed, kills, random.Random(seed), seconds)
    several = f" with {num_processes} processes" if num_processes > 1 else ""
    several += f", {counts['of one']} of one of them" if num_processes > 1 else ""
    moments = ", ".join(f"{counts[moment]} while {moment}" for moment in MOMENTS)
    results = (x.output / "model_final.pth" for x in (whole, disturbed))
    different = differences(*results)
    left = [x.name for x in disturbed.output.iterdir() if ".tmp" in x.name or ".lock" in x.name]
    sys.stdout.write(
        f"{kills} kills of a training of {iterations} iterations{several}: {moments}; "
        f"{counts['in a file']} left a checkpoint that was not complete\n"
        f"tensors that differ from the undisturbed training: {', '.join(different) or 'none'}\n"
        f"files of killed processes that are left: {', '.join(left) or 'none'}\n"
    )
    return int(bool(different or left))


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--processes", type=int, default=1, help="that train together")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, help="keep everything there; must not exist")
    parser.add_argument("changes", nargs=argparse.REMAINDER, metavar="KEY VALUE")
    args = parser.parse_args(arguments)
    if args.folder:
        args.folder.mkdir(parents=True)
        return compare(args.folder, args.kills, args.processes, args.seed, args.changes)
    with tempfile.TemporaryDirectory() as folder:
        return compare(Path(folder), args.kills, args.processes, args.seed, args.changes)


if __name__ == "__main__":
    sys.exit(main())
