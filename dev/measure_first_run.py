"""What a first run asks of a newcomer: commands, lines on the screen, seconds.

    python dev/measure_first_run.py [--data FOLDER] [--config-file NAME] [--iterations 100]
    python dev/measure_first_run.py --clone [--set-up] ...

Trains on a folder of images with one command and draws what the detector finds in one of them with
another. Counted are the lines before the first loss, at most 15, and the seconds to the first loss,
at most 20 after the set-up, and to the first picture; exits with 1 if one is over. Without --data
generated images are the folder. --clone runs in a fresh clone of this repository, with the
compiled operators of this one, or with --set-up after its own `make env`.
"""

# ruff: noqa: T201
from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
MAX_LINES = 15
MAX_SECONDS = 20.0


class FirstRun(NamedTuple):
    """What was counted; seconds are from the start of the first command."""

    commands: int
    lines: int
    seconds_to_loss: float
    seconds_to_picture: float

    def report(self) -> str:
        """One line for each number."""
        return "\n".join(
            (
                f"commands after the set-up: {self.commands}",
                f"lines before the first loss: {self.lines} (at most {MAX_LINES})",
                f"seconds to the first loss: {self.seconds_to_loss:.1f} (at most {MAX_SECONDS:g})",
                f"seconds to the first picture: {self.seconds_to_picture:.1f}",
            )
        )

    def is_over(self) -> bool:
        """Whether a limit is."""
        return self.lines > MAX_LINES or self.seconds_to_loss > MAX_SECONDS


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and report; returns the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, help="default: generated images")
    parser.add_argument("--config-file", help="default: that of train --data")
    parser.add_argument("--iterations", type=int, default=100, help="default %(default)s")
    parser.add_argument("--clone", action="store_true", help="run in a fresh clone")
    parser.add_argument("--set-up", action="store_true", help="after its own make env")
    args = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        root = clone(folder / "clone") if args.clone or args.set_up else ROOT
        python = set_up(root) if args.set_up else sys.executable
        environment = os.environ | {"PYTHONPATH": str(root / "projects")}
        data = args.data or draw_shapes(folder / "shapes")
        command = [python, "-m", "lite_focus_detr"]
        found = measure(command, environment, data, folder, args.config_file, args.iterations)
    print(found.report())
    return int(found.is_over())


def clone(folder: Path) -> Path:
    """A clone of this repository, with its compiled operators."""
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(folder)], check=True)
    for operators in (ROOT / "projects/lite_focus_detr/ops").glob("*.so"):
        shutil.copy(operators, folder / "projects/lite_focus_detr/ops")
    return folder


def set_up(root: Path) -> str:
    """Run `make env` and say how long it takes; returns its interpreter."""
    start = time.monotonic()
    subprocess.run(["make", "env"], cwd=root, check=True)
    print(f"seconds of the set-up: {time.monotonic() - start:.0f}")
    return str(root / ".venv/bin/python")


def draw_shapes(folder: Path) -> Path:
    """A folder of generated images in COCO format with two splits."""
    from lite_focus_detr.data.shapes import ShapesSpec, draw_dataset

    for split, count in (("train", 40), ("val", 10)):
        spec = ShapesSpec(split, count, 128, 0)
        draw_dataset(str(folder / "drawn"), spec)
        target = folder / "data" / split
        shutil.copytree(spec.image_root(str(folder / "drawn")), target)
        annotations = spec.json_file(str(folder / "drawn"))
        shutil.copy(annotations, target / "_annotations.coco.json")
    return folder / "data"


def measure(
    command: Sequence[str],
    environment: dict[str, str],
    data: Path,
    folder: Path,
    config_file: str | None,
    iterations: int,
) -> FirstRun:
    """Train and draw, each with one command.

    Args:
        command: that runs ``lite-focus-detr``.
        environment: of its processes.
        data: folder to train on.
        folder: for what is written.
        config_file: configuration; None takes the default.
        iterations: of the training.
    """
    output, pictures = folder / "output", folder / "pictures"
    train = [*command, "train", "--data", str(data), "--output", str(output)]
    train += ["--config-file", config_file] if config_file else []
    train += ["--opts", "SOLVER.MAX_ITER", str(iterations)]
    start = time.monotonic()
    lines, to_loss = 0, None
    with subprocess.Popen(
        train, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as training:
        assert training.stdout is not None
        for line in training.stdout:
            print(line, end="", flush=True)
            if to_loss is None and line.startswith("epoch "):
                to_loss = time.monotonic() - start
            lines += to_loss is None
    if training.returncode or to_loss is None:
        raise SystemExit(f"the training ended with {training.returncode} and showed no loss")
    image = next(path for path in sorted(data.rglob("*")) if path.suffix in (".jpg", ".png"))
    demo = [*command, "demo", "--weights", str(output / "model_best.pth"), "--input", str(image)]
    subprocess.run([*demo, "--output", str(pictures)], env=environment, check=True)
    if not list(pictures.glob("*.png")):
        raise SystemExit("the demo wrote no picture")
    return FirstRun(2, lines, to_loss, time.monotonic() - start)


if __name__ == "__main__":
    sys.exit(main())
