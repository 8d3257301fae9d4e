"""Trains the small configurations on a folder of images and prints a table of what they reach.

    python dev/small_file_table.py cells/ [--seeds 3] [--epochs 12] [--output runs/small_files]
    python dev/small_file_table.py cells/ --write-only

All configurations have a seed before one has the next. Finished trainings are not repeated, and
one that was stopped goes on. At the end all take turns with a few iterations, for the time of
one; a machine that does something else meanwhile shows in it.
"""

# ruff: noqa: T201
from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path

from tabulate import tabulate

from lite_focus_detr.tools.benchmark.measure import processor

#: The files of the table, in its order.
NAMES = (
    "dino_small",
    "lite_dino_small",
    "focus_dino_small",
    "sparse_dino_small",
    "lite_focus_dino_small",
    "dino_small_pretrained",
    "lite_dino_small_pretrained",
    "lite_focus_dino_small_pretrained",
)
#: Iterations and rounds of the time.
TIMED_ITERATIONS, ROUNDS = 12, 3
#: The rate drops after this part of a training, as in the files.
STEP_AT = 5 / 6


def train(args: argparse.Namespace, name: str, folder: Path, *options: object) -> None:
    """Train, or go on, in a process of its own; nothing where the training is finished."""
    if (folder / "model_final.pth").is_file():
        return
    command = [sys.executable, "-m", "lite_focus_detr", "train", "--data", args.data]
    command += ["--config-file", name, "--output", str(folder)]
    if (folder / "last_checkpoint").is_file():
        command.append("--resume")
    options = ("TEST.EVAL_PERIOD", 0, *options)
    subprocess.run([*command, "--opts", *map(str, options)], check=True)


def train_all(args: argparse.Namespace) -> None:
    """All trainings, the first seed of every file first."""
    length = ("SOLVER.EPOCHS", args.epochs, "SOLVER.STEP_EPOCHS", [round(args.epochs * STEP_AT)])
    for seed in range(1, args.seeds + 1):
        for name in NAMES:
            train(args, name, folder_of(args, name, seed), *length, "SEED", seed)


def time_all(args: argparse.Namespace) -> dict[str, float]:
    """Seconds of an iteration by file: the medians of trainings that take turns."""
    path = args.output / "seconds.json"
    if path.is_file():
        return dict(json.loads(path.read_text()))
    if args.write_only:
        return {}
    seconds: dict[str, list[float]] = {name: [] for name in NAMES}
    for turn in range(ROUNDS):
        for name in NAMES:
            folder = args.output / f"time-{name}-{turn}"
            train(args, name, folder, "SOLVER.MAX_ITER", TIMED_ITERATIONS)
            seconds[name].append(last_values(folder)["time"])
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    path.write_text(json.dumps(medians))
    return medians


def last_values(folder: Path) -> dict[str, float]:
    """The last value of each scalar of a training."""
    values: dict[str, float] = {}
    for line in (folder / "metrics.json").read_text().splitlines():
        values.update(json.loads(line))
    return values


def folder_of(args: argparse.Namespace, name: str, seed: int) -> Path:
    """Where a training leaves its files."""
    folder: Path = args.output / f"{name}-seed{seed}"
    return folder


def table(args: argparse.Namespace, seconds: dict[str, float]) -> str:
    """What the finished trainings have reached, in Markdown."""
    rows = []
    for name in NAMES:
        folders = [folder_of(args, name, seed) for seed in range(1, args.seeds + 1)]
        runs = [last_values(x) for x in folders if (x / "model_final.pth").is_file()]
        if not runs:
            continue
        row = {"file": f"`{name}`", "seeds": len(runs)}
        for metric in ("AP", "AP50"):
            row[metric] = spread([run[f"bbox/{metric}"] for run in runs])
        iterations = runs[0]["iteration"] + 1
        if name in seconds:
            row["minutes"] = f"{iterations * seconds[name] / 60:.0f}"
        rows.append(row)
    return tabulate(rows, headers="keys", tablefmt="github", disable_numparse=True)


def spread(values: list[float]) -> str:
    """Mean and standard deviation."""
    deviation = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.1f}{deviation}"


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", help="folder in COCO, YOLO or Pascal VOC format")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--output", type=Path, default=Path("runs/small_files"))
    parser.add_argument("--write-only", action="store_true", help="train nothing")
    args = parser.parse_args()
    if not args.write_only:
        train_all(args)
    print(f"{args.epochs} epochs, {processor()}\n\n{table(args, time_all(args))}")


if __name__ == "__main__":
    main()
