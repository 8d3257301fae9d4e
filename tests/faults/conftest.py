"""Commands of the project in forked processes, what they leave, and a data set to damage."""

from __future__ import annotations

import hashlib
import importlib
import json
import logging
import multiprocessing
import os
import runpy
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from detectron2.engine import default_argument_parser, defaults
from PIL import Image

from lite_focus_detr.engine import run

ROOT = Path(__file__).parents[2]
TINY = ROOT / "tests/engine/tiny.yaml"
TIMEOUT = 120  # seconds, of a command that hangs
FORK = multiprocessing.get_context("fork")


def pytest_configure(config: pytest.Config) -> None:
    """Whoever asks for this folder alone gets the faults that lie beside what they are of, too."""
    folder = Path(__file__).parent
    if [Path(argument).resolve() for argument in config.args] == [folder]:
        config.args.append(str(folder.parent))
        config.option.markexpr = config.option.markexpr or "fault"


class Finished(NamedTuple):
    """What a command has done."""

    exit_code: int  #: negative: the number of the signal that ended it
    output: str  #: of stdout, where the log goes as well
    errors: str  #: of stderr

    def __repr__(self) -> str:
        """The end, which says what is wrong."""
        return f"exit code {self.exit_code}\n...{self.output[-1500:]}\n{self.errors[-3000:]}"

    def refusal(self) -> str:
        """The line of a command that says what it does not accept, and nothing else."""
        assert self.exit_code == 1, self
        assert "Traceback" not in self.output + self.errors, self
        # PyTorch writes a line about a segmentation fault of a worker from its signal handler.
        lines = [x for x in self.errors.splitlines() if not x.startswith("ERROR: Unexpected ")]
        assert len(lines) == 1, self
        line = lines[0].lstrip("\0")
        assert line.startswith("error: "), self
        return line

    def succeeded(self) -> Finished:
        """This, of a command that has gone through."""
        assert self.exit_code == 0, self
        assert "Traceback" not in self.output + self.errors, self
        return self


@pytest.fixture
def call(tmp_path):
    """Call a function in a forked process: ``call(function, *arguments) -> Finished``.

    The process has the modules of this one, and what a test has patched, at once. What it changes
    is gone with it. Its working folder is ``tmp_path``.
    """

    def call(function: Callable[..., Any], *arguments: Any, timeout: float = TIMEOUT) -> Finished:
        process = FORK.Process(target=_in_child, args=(tmp_path, function, arguments))
        process.start()
        process.join(timeout)
        if process.exitcode is None:
            process.kill()
            process.join()
            pytest.fail(f"hangs: {(tmp_path / '.stdout').read_text()}")
        streams = ((tmp_path / f".{name}").read_text() for name in ("stdout", "stderr"))
        return Finished(process.exitcode, *streams)

    return call


def _in_child(folder: Path, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    for number, name in ((1, "stdout"), (2, "stderr")):
        target = os.open(folder / f".{name}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(target, number)
        setattr(sys, name, os.fdopen(number, "w", buffering=1, closefd=False))
    for name in list(logging.root.manager.loggerDict):  # those of earlier tests write to files
        logging.getLogger(name).handlers.clear()  # that are closed
    logging.basicConfig(stream=sys.stdout, level=logging.WARNING, force=True)
    # Threads of this process do not survive the fork: a region of one thread needs none.
    torch.set_num_threads(1)
    os.environ["OMP_NUM_THREADS"] = "1"
    # Written to every log, these take half of the time of a case and are not looked at.
    defaults.collect_env_info, defaults._highlight = str, lambda code, _: code
    os.chdir(folder)
    function(*arguments)


class Started:
    """Processes of one training that go on while a test looks at them."""

    def __init__(self, output: Path, folders: list[Path], processes: list[BaseProcess]) -> None:
        """Take processes, each the first of a session of its own, with their folders."""
        self.output, self.folders, self.processes = output, folders, processes

    def wait_for(self, path: Path) -> None:
        """Wait until a file is there."""
        end = time.monotonic() + TIMEOUT
        while not path.exists():
            if time.monotonic() > end or not all(x.is_alive() for x in self.processes):
                pytest.fail(f"{path} is not written: {self.finished(0)}")
            time.sleep(0.01)

    def wait_until_stopped(self, number: int) -> None:
        """Wait until one of the processes has got SIGSTOP."""
        _, status = os.waitpid(self.processes[number].pid, os.WUNTRACED)
        assert os.WIFSTOPPED(status)

    def finished(self, timeout: float = TIMEOUT) -> list[Finished]:
        """Wait until all have ended; what each has done."""
        end = time.monotonic() + timeout
        for process in self.processes:
            process.join(max(0, end - time.monotonic()))
        hanging = [process for process in self.processes if process.exitcode is None]
        for process in hanging:
            process.kill()
            process.join()
        texts = [[(x / f".{n}").read_text() for n in ("stdout", "stderr")] for x in self.folders]
        if hanging:
            pytest.fail(f"hangs: {texts}")
        pairs = zip(self.processes, texts, strict=True)
        return [Finished(process.exitcode, *text) for process, text in pairs]

    def left_after(self, seconds: float) -> list[str]:
        """What still runs of their sessions, loader workers say, after at most some seconds."""
        end = time.monotonic() + seconds
        sessions = {str(process.pid) for process in self.processes}
        while left := running_in(sessions):
            if time.monotonic() > end:
                break
            time.sleep(0.05)
        return left


def running_in(sessions: set[str]) -> list[str]:
    """``/proc/ID/stat`` of the processes in sessions that are not zombies."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            status = path.read_text(errors="replace")
        except OSError:  # it has just ended
            continue
        state, _, _, session = status.rpartition(")")[2].split()[:4]
        if session in sessions and state not in "ZX":
            found.append(status)
    return found


@pytest.fixture
def start(start_in, tmp_path):
    """Start ``train_net.py`` on the tiny detector: ``start("--resume", "KEY", "VALUE")``.

    Its output is in ``tmp_path / "out"``, unless ``output`` is given; several ``processes`` find
    the variables of torchrun, or those that ``place(rank)`` gives. They are forked, as those of
    ``call``.
    """
    with start_in(tmp_path) as start:
        yield start


def torchrun_place(processes: int) -> Callable[[int], dict[str, Any]]:
    """The variables of torchrun for each of so many processes of this machine."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": processes}
    return lambda rank: {**meeting, "RANK": rank, "LOCAL_RANK": rank}


@pytest.fixture(scope="session")
def start_in(train_net):
    """``with start_in(folder) as start``: as the fixture ``start``, in another folder."""

    @contextmanager
    def start_in(parent: Path) -> Iterator[Callable[..., Started]]:
        started: list[Started] = []

        def start(
            *arguments: Any, processes: int = 1, output: str = "out", place: Any = None
        ) -> Started:
            flags = [word for word in map(str, arguments) if word.startswith("--")]
            changes = [word for word in map(str, arguments) if not word.startswith("--")]
            command = ["--config-file", str(TINY), *flags, "DATASETS.SHAPES.ROOT"]
            command += [f"{parent}/shapes", "OUTPUT_DIR", f"{parent}/{output}", *changes]
            place = place or (torchrun_place(processes) if processes > 1 else lambda _: {})
            folders, running = [], []
            for rank in range(processes):
                variables = {name: str(value) for name, value in place(rank).items()}
                folders.append(Path(tempfile.mkdtemp(dir=parent)))
                details = (train_net["main"], command, variables)
                running.append(FORK.Process(target=_in_session, args=(folders[-1], *details)))
                running[-1].start()
            started.append(Started(parent / output, folders, running))
            return started[-1]

        yield start
        for process in (process for group in started for process in group.processes):
            process.kill()

    return start_in


class Undisturbed(NamedTuple):
    """A training with two processes that nothing has happened to."""

    changes: tuple[Any, ...]  #: of the tiny detector, to be given to ``start``
    output: Path


@pytest.fixture(scope="session")
def undisturbed(start_in, tmp_path_factory) -> Undisturbed:
    """What trainings with two processes end with, whatever happens to them."""
    changes = (
        *("SEED", 3, "SOLVER.MAX_ITER", 8, "SOLVER.CHECKPOINT_PERIOD", 2, "TEST.EVAL_PERIOD", 4),
        *("SOLVER.IMS_PER_BATCH", 4, "DATASETS.SHAPES.NUM_TRAIN", 9),
        *("INPUT.MIN_SIZE_TRAIN", "(56, 64)", "MODEL.EMA.ENABLED", "True", "MODEL.EMA.DECAY", 0.9),
        *("MODEL.DETR.ENCODER.DROPOUT", 0.1, "MODEL.DETR.DECODER.DROPOUT", 0.1),
    )
    folder = tmp_path_factory.mktemp("undisturbed")
    with start_in(folder) as start:
        for finished in start(*changes, processes=2).finished():
            finished.succeeded()
    return Undisturbed(changes, folder / "out")


def _in_session(folder: Path, main: Any, command: list[str], variables: dict[str, str]) -> None:
    os.setsid()
    os.environ.update(variables)
    sys.argv = ["train_net.py", *command]
    _in_child(folder, run, (main, default_argument_parser().parse_args(command)))


@pytest.fixture(scope="session")
def train_net() -> dict[str, Any]:
    """The names of ``train_net.py``."""
    return runpy.run_path(str(ROOT / "train_net.py"))


@pytest.fixture
def train(call, train_net, tmp_path):
    """Run ``train_net.py`` on the tiny detector: ``train("--resume", "KEY", "VALUE")``.

    Its output is in ``tmp_path / "out"``; ``config_file`` replaces the tiny detector.
    """

    def train(*arguments: Any, config_file: Path = TINY, **options: Any) -> Finished:
        flags = [word for word in map(str, arguments) if word.startswith("--")]
        changes = [word for word in map(str, arguments) if not word.startswith("--")]
        folders = ("DATASETS.SHAPES.ROOT", tmp_path / "shapes", "OUTPUT_DIR", tmp_path / "out")
        command = ["--config-file", config_file, *flags, *folders, *changes]
        args = default_argument_parser().parse_args(list(map(str, command)))
        return call(run, train_net["main"], args, **options)

    return train


@pytest.fixture
def tool(call):
    """Run ``python -m lite_focus_detr.tools.NAME``: ``tool("demo", "--input", ...)``."""

    def tool(name: str, *arguments: Any) -> Finished:
        module = importlib.import_module(f"lite_focus_detr.tools.{name}")

        def main() -> None:
            sys.argv = [name, *map(str, arguments)]
            raise SystemExit(module.main(list(map(str, arguments))))

        return call(main)

    return tool


def files_of(folder: Path) -> dict[str, str]:
    """A digest of every file below a folder, by its path."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture(name="files_of")
def files_of_fixture():
    """``files_of(folder)``: a digest of every file below it, by its path."""
    return files_of


class CocoFiles:
    """A data set of four images of 64 x 64 pixels with three categories; damage it, then save."""

    def __init__(self, folder: Path) -> None:
        """Write the images, all different, and make the annotations."""
        self.json_file, self.image_root = folder / "data.json", folder / "images"
        self.image_root.mkdir()
        random = np.random.default_rng(0)
        size = {"height": 64, "width": 64}
        self.images: list[dict[str, Any]] = [
            {"id": n, "file_name": f"{n}.png", **size} for n in range(1, 5)
        ]
        for image in self.images:
            pixels = random.integers(0, 256, (64, 64, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(self.image_root / image["file_name"])
        self.annotations: list[dict[str, Any]] = []
        for n in range(1, 9):
            box = [4 + n, 6, 20 + n, 30]
            details = {"image_id": 1 + n % 4, "category_id": 1 + n % 3, "bbox": box}
            area = {"area": box[2] * box[3], "iscrowd": 0}
            self.annotations.append({"id": n, **details, **area})
        names = ("cat", "dog", "cow")
        self.categories: list[dict[str, Any]] = [
            {"id": number, "name": name} for number, name in enumerate(names, 1)
        ]

    def save(self, **changes: Any) -> tuple[str, ...]:
        """Write the annotations, with other top-level entries; return options to train on it."""
        content = {"images": self.images, "annotations": self.annotations}
        content |= {"categories": self.categories, **changes}
        self.json_file.write_text(json.dumps(content))
        return self.options()

    def options(self, *, train: str = "mine", test: str = "mine") -> tuple[str, ...]:
        """``KEY VALUE`` pairs that train and test on it."""
        entry = f"[['mine', '{self.json_file}', '{self.image_root}']]"
        sets = ("DATASETS.TRAIN", f"('{train}',)", "DATASETS.TEST", f"('{test}',)")
        return ("DATASETS.COCO", entry, *sets)


@pytest.fixture
def coco(tmp_path) -> CocoFiles:
    """A data set of four images to damage: ``train(*coco.save())``."""
    return CocoFiles(tmp_path)
