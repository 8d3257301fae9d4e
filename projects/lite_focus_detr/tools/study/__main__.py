"""Compares all encoders on equal terms: one decoder, the same iterations, seeds.

    lite-focus-detr study --suite small [--output runs/study] \
        [--coco NAME TRAIN_JSON VAL_JSON IMAGE_ROOT] [--document docs/comparison.md]

Trains small detectors on the generated shapes and, with --coco, on a data set of one's own, one
after the other and the most important first. Finished trainings are not repeated, and one that was
stopped goes on where it was: the command can be stopped and started again at any time. After every
training the document is written anew, with what is there by then; each row names its metrics.json,
which is copied beside the document together with the results. Where these are, a training is
finished too, on whatever machine it ran.
"""

from __future__ import annotations

import argparse
import json
import logging
import subprocess
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode
from detectron2.utils.logger import setup_logger

from ...engine import DetrTrainer, user_errors
from ...modeling import DetectionTransformer
from ..sparsify import AddedPartsTrainer
from .comparison import (
    COSTS,
    measure_costs,
    read_results,
    require_iterations,
    require_whole,
    take_results,
    write_document,
)
from .suite import ENCODERS, ITERATIONS, SPARSIFIED, Cell, Dataset, cell_config, cells
from .training import RESULT, train

# Under ``python -m`` the name of this module is not its own.
logger = logging.getLogger("lite_focus_detr.tools.study")

#: (height, width) of the image that costs are measured for: of one's own data, of the shapes.
IMAGE_SIZES = ((240, 320), (128, 128))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code, 1 if a training failed."""
    args = _parser().parse_args(arguments)
    dataset = Dataset(*args.coco) if args.coco else None
    names = [*([dataset.name] if dataset else []), "shapes"]
    todo = list(cells(names, args.seeds))
    folder = Path(args.output)
    if args.only:
        with user_errors():
            cell = _find(args.only, todo)
            used = _dataset_of(cell, dataset)
            cfg = cell_config(cell, used, args.iterations, folder)
            build: Callable[[CfgNode], DetrTrainer] = DetrTrainer
            if cell.encoder == SPARSIFIED:
                dense_cfg = cell_config(cell.dense, used, args.iterations, folder)
                build = partial(build_sparsified, dense_cfg=dense_cfg)
            train(cfg, args.images, build)
        return 0
    setup_logger(name="lite_focus_detr")
    with user_errors():
        require_whole(Path(args.document), todo)
        take_results(Path(args.document), folder, todo, args.iterations)
        require_iterations(folder, todo, args.iterations)
    failed = 0
    for cell in todo if not args.write_only else []:
        if (folder / cell.name / RESULT).is_file():
            continue
        logger.info("Training %s", cell.name)
        failed += _run_in_process(cell, arguments)
        write_document(Path(args.document), folder, todo, read_costs(folder))
    with user_errors():
        costs = update_costs(folder, todo, dataset)
        write_document(Path(args.document), folder, todo, costs)
    return int(failed > 0)


def read_costs(folder: Path) -> dict[str, Any]:
    """What :func:`update_costs` has measured so far, by data set."""
    path = folder / COSTS
    return dict(json.loads(path.read_text())) if path.is_file() else {}


def update_costs(folder: Path, todo: Sequence[Cell], dataset: Dataset | None) -> dict[str, Any]:
    """Measure the encoders with finished trainings, all of a data set if one of them is new."""
    costs, finished = read_costs(folder), read_results(folder, todo)
    for name in dict.fromkeys(cell.dataset for cell in finished):
        encoders = [encoder for encoder in ENCODERS if Cell(name, "dino", encoder, 0) in finished]
        if name in costs and set(encoders) <= set(costs[name]["encoders"]):
            continue
        configs = {}
        for encoder in encoders:
            cell = Cell(name, "dino", encoder, 0)
            configs[encoder] = cell_config(cell, _dataset_of(cell, dataset), 1, folder)
        costs[name] = measure_costs(configs, IMAGE_SIZES[name == "shapes"])
        (folder / COSTS).write_text(json.dumps(costs, indent=1) + "\n")
    return costs


def build_sparsified(cfg: CfgNode, dense_cfg: CfgNode) -> DetrTrainer:
    """Build the trainer of a sparsified detector, which starts from a dense one of the study.

    Raises:
        ValueError: the dense detector has not been trained.
    """
    weights = Path(dense_cfg.OUTPUT_DIR) / "model_final.pth"
    if not weights.is_file():
        raise ValueError(f"{cfg.OUTPUT_DIR} starts from {weights}, which is not there yet")
    dense_cfg.MODEL.WEIGHTS, dense_cfg.MODEL.DEVICE = str(weights), cfg.MODEL.DEVICE
    dense = DetrTrainer.load_model(dense_cfg)
    assert isinstance(dense, DetectionTransformer)
    return AddedPartsTrainer(cfg, dense)


def _find(name: str, todo: Sequence[Cell]) -> Cell:
    for cell in todo:
        if cell.name == name:
            return cell
    raise ValueError(f"--only {name} is not in the suite; its trainings are named like {todo[0]}")


def _dataset_of(cell: Cell, dataset: Dataset | None) -> Dataset | None:
    return dataset if dataset is not None and cell.dataset == dataset.name else None


def _run_in_process(cell: Cell, arguments: Sequence[str] | None) -> bool:
    """Train in a process of its own, which sets up logging and seeds; whether it failed."""
    given = sys.argv[1:] if arguments is None else arguments
    command = [sys.executable, "-m", "lite_focus_detr.tools.study", *given, "--only", cell.name]
    finished = subprocess.run(command, check=False, stdout=subprocess.DEVNULL)
    if finished.returncode:
        logger.error("%s failed with exit status %d", cell.name, finished.returncode)
    return finished.returncode != 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="lite-focus-detr study",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--suite", choices=["small"], default="small", help="default %(default)s")
    parser.add_argument("--output", default="runs/study", help="folder; default %(default)s")
    parser.add_argument("--document", default="docs/comparison.md", help="default %(default)s")
    parser.add_argument(
        "--coco", nargs=4, metavar=("NAME", "TRAIN_JSON", "VAL_JSON", "IMAGE_ROOT"), help="data set"
    )
    parser.add_argument("--seeds", type=int, default=3, help="trainings of each; default 3")
    parser.add_argument("--iterations", type=int, default=ITERATIONS, help="default %(default)s")
    parser.add_argument("--images", type=int, default=50, help="to measure the selection with")
    parser.add_argument("--only", metavar="CELL", help="one training, such as another machine's")
    parser.add_argument("--write-only", action="store_true", help="train nothing")
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
