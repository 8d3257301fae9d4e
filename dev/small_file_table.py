"""Trains the small configurations on a folder of images and prints a table of what they reach.

    python dev/small_file_table.py cells/ [--seeds 3] [--output runs/small_files]
    python dev/small_file_table.py cells/ --parts train --names dino_small focus_dino_small

Every file trains for as long as it says. All have a seed before one has the next. Finished
trainings are not repeated, one that was stopped goes on, and several processes with other names
share the work. At the end all take turns with a few iterations, for the time of one; a machine
that does something else meanwhile shows in it. ``--parts`` without a part only writes the table.
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

from lite_focus_detr import model_zoo
from lite_focus_detr.tools.benchmark.measure import processor

#: The files of the table, in its order.
NAMES = (
    "dino_small",
    "lite_dino_small",
    "focus_dino_small",
    "sparse_dino_small",
    "lite_focus_dino_small",
    "lite_focus_dino_small_pretrained",
)
#: What the command does before it writes.
PARTS = ("train", "time")
#: Where the seconds of an iteration are kept.
SECONDS = "seconds.json"
#: Iterations and rounds of the time.
TIMED_ITERATIONS, ROUNDS = 12, 3


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
    for seed in range(1, args.seeds + 1):
        for name in args.names:
            train(args, name, folder_of(args, name, seed), "SEED", seed)


def time_all(args: argparse.Namespace) -> None:
    """Keep the seconds of an iteration by file: medians of trainings that take turns."""
    seconds: dict[str, list[float]] = {name: [] for name in args.names}
    for turn in range(ROUNDS):
        for name in args.names:
            folder = args.output / f"time-{name}-{turn}"
            train(args, name, folder, "SOLVER.MAX_ITER", TIMED_ITERATIONS)
            seconds[name].append(last_values(folder)["time"])
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    # Another process may have kept those of other files meanwhile.
    (args.output / SECONDS).write_text(json.dumps(kept_seconds(args) | medians))


def kept_seconds(args: argparse.Namespace) -> dict[str, float]:
    """Seconds of an iteration by file, as far as they are known."""
    path: Path = args.output / SECONDS
    seconds: dict[str, float] = json.loads(path.read_text()) if path.is_file() else {}
    return seconds


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


def table(args: argparse.Namespace) -> str:
    """What the finished trainings have reached, in Markdown."""
    seconds = kept_seconds(args)
    rows = []
    for name in args.names:
        folders = [folder_of(args, name, seed) for seed in range(1, args.seeds + 1)]
        runs = [last_values(x) for x in folders if (x / "model_final.pth").is_file()]
        if not runs:
            continue
        epochs = f"{model_zoo.get_config(name).SOLVER.EPOCHS:g}"
        row = {"file": f"`{name}`", "epochs": epochs, "seeds": len(runs)}
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
    parser.add_argument("--names", nargs="+", choices=NAMES, default=NAMES, metavar="FILE")
    parser.add_argument("--output", type=Path, default=Path("runs/small_files"))
    parser.add_argument("--parts", nargs="*", choices=PARTS, default=PARTS)
    args = parser.parse_args()
    if "train" in args.parts:
        train_all(args)
    if "time" in args.parts:
        time_all(args)
    print(f"{processor()}\n\n{table(args)}")


if __name__ == "__main__":
    main()
