"""Compares one detector for all budgets with detectors that were trained for one budget each.

    python dev/compare_budgets.py [--seeds 3] [--iterations 1200] [--output runs/budgets] \
        [--all-iterations 1200] [--coco NAME TRAIN_JSON VAL_JSON IMAGE_ROOT] \
        [--encoder focus_keep30]

Trains one of the encoders of the study with ``SOLVER.KEEP_RATIO_RANGE``, and again with each of the
keep ratios alone, and prints the AP of both; the one detector, which stands for five, may be
trained longer. Finished trainings are not repeated, one that was stopped goes on; ``--only`` leaves
one training to another process.
"""

# ruff: noqa: T201
from __future__ import annotations

import argparse
import json
import logging
import statistics
from collections.abc import Iterator
from itertools import product
from pathlib import Path

from detectron2.config import CfgNode
from detectron2.engine import default_argument_parser
from tabulate import tabulate

from lite_focus_detr.engine import DetrTrainer, prepare_run
from lite_focus_detr.modeling import DetectionTransformer
from lite_focus_detr.modeling.encoder.token_selection import spread_keep_ratio
from lite_focus_detr.tools.study.suite import ENCODERS, Cell, Dataset, cell_config

#: Means over the layers.
KEEP_RATIOS = (0.1, 0.2, 0.3, 0.4, 0.5)
#: The training for all of them.
ALL = "all"
NAMES = (ALL, *map(str, KEEP_RATIOS))
#: AP by keep ratio, in the folder of a finished training.
RESULT = "budgets.json"


def budget_config(args: argparse.Namespace, name: str, seed: int) -> CfgNode:
    """The configuration of a training."""
    dataset = Dataset(*args.coco) if args.coco else None
    cell = Cell(dataset.name if dataset else "shapes", "dino", args.encoder, seed)
    cfg = cell_config(cell, dataset, iterations_of(args, name), args.output)
    cfg.defrost()
    if name == ALL:
        cfg.SOLVER.KEEP_RATIO_RANGE = [KEEP_RATIOS[0], KEEP_RATIOS[-1]]
    else:
        selection = {"FocusDETR": cfg.MODEL.FOCUS, "LiteFocusDETR": cfg.MODEL.LITE_FOCUS}
        node = selection[cfg.MODEL.META_ARCHITECTURE]
        # In the proportion of the configured ratios, as a budget is shared at run time.
        node.KEEP_RATIOS = spread_keep_ratio(float(name), node.KEEP_RATIOS)
    cfg.OUTPUT_DIR = str(folder_of(args, name, seed))
    return cfg


def iterations_of(args: argparse.Namespace, name: str) -> int:
    """How long a training is."""
    return int((name == ALL and args.all_iterations) or args.iterations)


def folder_of(args: argparse.Namespace, name: str, seed: int) -> Path:
    """Where a training leaves its files."""
    dataset = args.coco[0] if args.coco else "shapes"
    length = f"{iterations_of(args, name)}it"
    folder: Path = args.output / f"{dataset}-{args.encoder}-{name}-{length}-seed{seed}"
    return folder


def train(args: argparse.Namespace, name: str, seed: int) -> None:
    """Train, or go on, and evaluate with every budget that the detector is for."""
    folder = folder_of(args, name, seed)
    if (folder / RESULT).is_file():
        return
    cfg = budget_config(args, name, seed)
    prepare_run(cfg, default_argument_parser().parse_args([]))
    trainer = DetrTrainer(cfg)
    trainer.resume_or_load(resume=True)
    trainer.train()
    model = trainer.model
    assert isinstance(model, DetectionTransformer)
    ap = {}
    for ratio in KEEP_RATIOS if name == ALL else [float(name)]:
        model.set_budget(ratio)
        ap[str(ratio)] = float(DetrTrainer.test(cfg, model)["bbox"]["AP"])
    (folder / RESULT).write_text(json.dumps(ap))


def trainings(args: argparse.Namespace) -> Iterator[tuple[int, str]]:
    """All of one seed before those of the next."""
    yield from product(range(args.seeds), NAMES)


def table(args: argparse.Namespace) -> str:
    """AP of the one detector and of those for one budget, in Markdown, of the finished seeds."""
    found: dict[str, dict[int, dict[str, float]]] = {name: {} for name in NAMES}
    for seed, name in trainings(args):
        path = folder_of(args, name, seed) / RESULT
        if path.is_file():
            found[name][seed] = json.loads(path.read_text())
    rows = []
    for ratio in map(str, KEEP_RATIOS):
        seeds = sorted(set(found[ALL]) & set(found[ratio]))
        if seeds:
            one = [found[ALL][seed][ratio] for seed in seeds]
            alone = [found[ratio][seed][ratio] for seed in seeds]
            difference = [x - y for x, y in zip(one, alone, strict=True)]
            rows.append([ratio, len(seeds), spread(one), spread(alone), spread(difference)])
    one, alone = (f"{iterations_of(args, name)} iterations" for name in (ALL, str(KEEP_RATIOS[0])))
    headers = (
        "keep ratio",
        "seeds",
        f"one for all, {one}",
        f"trained for it, {alone}",
        "difference",
    )
    return str(tabulate(rows, headers=headers, tablefmt="github", disable_numparse=True))


def spread(values: list[float]) -> str:
    """Mean and standard deviation."""
    deviation = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.1f}{deviation}"


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--iterations", type=int, default=1200)
    parser.add_argument("--all-iterations", type=int, help="of the one detector; default as many")
    encoders = [encoder for encoder in ENCODERS if "focus" in encoder]
    parser.add_argument("--encoder", choices=encoders, default="focus_keep30", metavar="NAME")
    parser.add_argument("--output", type=Path, default=Path("runs/budgets"))
    parser.add_argument("--coco", nargs=4, metavar=("NAME", "TRAIN", "VAL", "IMAGES"))
    parser.add_argument("--only", metavar="NAME-SEED", help="one training, such as all-0, 0.1-2")
    args = parser.parse_args()
    logging.captureWarnings(True)
    todo = [(s, n) for s, n in trainings(args) if args.only in (None, f"{n}-{s}")]
    if not todo:
        parser.error(f"--only {args.only} is none of the trainings")
    for seed, name in todo:
        train(args, name, seed)
    print(table(args))


if __name__ == "__main__":
    main()
