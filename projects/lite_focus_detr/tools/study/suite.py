"""What a study compares: encoders, hosts, data sets and seeds, in order of importance."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import NamedTuple

from detectron2.config import CfgNode

from ... import model_zoo
from ..sparsify import added_config, sparse_config

#: Iterations of each training; the rate drops after five sixths of them.
ITERATIONS = 300
#: Batch of each training.
BATCH = 4

Options = Sequence[object]

_FOCUS: Options = ("MODEL.FOCUS.SCALE_RANGES_AT", 800, "MODEL.FOCUS.OBJECT_SCORE", "probability")
_KEY_AWARE: Options = (
    "MODEL.DETR.ENCODER.ATTENTION",
    "key_aware",
    "MODEL.DETR.DECODER.ATTENTION",
    "key_aware",
)


def _lite(architecture: str, high_levels: int, blocks: int) -> Options:
    options = {"NUM_HIGH_LEVELS": high_levels, "NUM_BLOCKS": blocks, "LOW_FFN_DIM": 64}
    pairs = [x for key, value in options.items() for x in (f"MODEL.LITE.{key}", value)]
    return ("MODEL.META_ARCHITECTURE", architecture, *pairs)


def _focus(keep_ratio: float, object_tokens: int = 0) -> Options:
    ratios = [round(keep_ratio * 4 / 3, 3), round(keep_ratio * 2 / 3, 3)]
    architecture = ("MODEL.META_ARCHITECTURE", "FocusDETR", "MODEL.FOCUS.KEEP_RATIOS", ratios)
    return (*architecture, "MODEL.FOCUS.OBJECT_TOKENS", object_tokens, *_FOCUS)


def _lite_focus(keep_ratio: float, object_tokens: int = 0) -> Options:
    selection = ("MODEL.LITE_FOCUS.KEEP_RATIOS", [keep_ratio])
    objects = ("MODEL.LITE_FOCUS.OBJECT_TOKENS", object_tokens)
    return (*_lite("LiteFocusDETR", 2, 1), *selection, *objects, *_FOCUS, *_KEY_AWARE)


def _sparse(keep_ratio: float) -> Options:
    return ("MODEL.META_ARCHITECTURE", "SparseDETR", "MODEL.SPARSE.KEEP_RATIO", keep_ratio)


#: The encoder of a dense detector that :mod:`~lite_focus_detr.tools.sparsify` made sparse.
SPARSIFIED = "sparsified_keep30"
#: Changes of the dense detector, whose encoder has two layers, by the name in the table.
ENCODERS: Mapping[str, Options] = {
    "dense": (),
    "lite_h2l2": (*_lite("LiteDETR", 2, 1), *_KEY_AWARE),
    "focus_keep30": _focus(0.3),
    "lite_focus_keep30": _lite_focus(0.3),
    "sparse_keep30": _sparse(0.3),
    # Not trained from scratch: the dense detector of the same seed, made sparse.
    SPARSIFIED: (),
    "focus_keep30_dual": _focus(0.3, 30),
    "focus_keep10": _focus(0.1),
    "focus_keep50": _focus(0.5),
    "lite_h2l2_plain": _lite("LiteDETR", 2, 1),
    "lite_h3l1": (*_lite("LiteDETR", 3, 1), *_KEY_AWARE),
    "lite_h3l1_plain": _lite("LiteDETR", 3, 1),
    "lite_h3l1_two_blocks": (*_lite("LiteDETR", 3, 2), *_KEY_AWARE),
    "lite_h3l1_two_blocks_plain": _lite("LiteDETR", 3, 2),
    "lite_focus_keep30_dual": _lite_focus(0.3, 30),
    "lite_focus_keep10": _lite_focus(0.1),
    "focus_keep50_dual": _focus(0.5, 30),
    "focus_keep10_dual": _focus(0.1, 30),
}
#: Of which all trainings come before those of the others.
MAIN_ENCODERS = tuple(ENCODERS)[:6]
#: The encoders of the second host.
TWO_STAGE_ENCODERS = ("dense", "lite_h2l2", "focus_keep30", "lite_focus_keep30")

#: Changes of DINO, by the name of the host.
HOSTS: Mapping[str, Options] = {
    # Of proposals trained on the selected tokens alone, the seed would choose the level, and what
    # it costs would hide the encoder.
    "dino": ("MODEL.DETR.PROPOSAL_LOSS", "all"),
    "two_stage": (
        "MODEL.DETR.QUERY_SELECTION",
        "two_stage",
        "MODEL.DETR.LOOK_FORWARD_TWICE",
        False,
        "MODEL.DETR.DENOISING.TYPE",
        "none",
    ),
}


class Dataset(NamedTuple):
    """A data set of the user, in COCO format."""

    name: str
    train_json: str
    val_json: str
    image_root: str


class Cell(NamedTuple):
    """One training."""

    dataset: str  #: ``shapes``, or the name of the user's
    host: str
    encoder: str
    seed: int

    @property
    def name(self) -> str:
        """Name of its folder."""
        return f"{self.dataset}-{self.host}-{self.encoder}-seed{self.seed}"

    @property
    def dense(self) -> Cell:
        """The training of the dense encoder with the same seed."""
        return self._replace(encoder="dense")


def cells(datasets: Sequence[str], num_seeds: int) -> Iterator[Cell]:
    """All trainings of the suite, the most important first."""

    def dino(encoders: Iterable[str], seeds: Iterable[int]) -> Iterator[Cell]:
        for seed, dataset, encoder in product(seeds, datasets, encoders):
            yield Cell(dataset, "dino", encoder, seed)

    yield from dino(MAIN_ENCODERS, range(1))
    for encoder, dataset in product(TWO_STAGE_ENCODERS, datasets):
        yield Cell(dataset, "two_stage", encoder, 0)
    yield from dino(MAIN_ENCODERS, range(1, num_seeds))
    yield from dino([x for x in ENCODERS if x not in MAIN_ENCODERS], range(num_seeds))


def cell_config(cell: Cell, dataset: Dataset | None, iterations: int, folder: Path) -> CfgNode:
    """The configuration of a training.

    Args:
        cell: which.
        dataset: of the cell; None for ``shapes``.
        iterations: of the training.
        folder: of the results of the study.

    Raises:
        ValueError: a file of the data set cannot be read.
    """
    if cell.encoder == SPARSIFIED:
        dense = cell_config(cell.dense, dataset, iterations, folder)
        sparse = sparse_config(dense, "sparse", 0.3)
        return added_config(sparse, "sparse", folder / cell.name, iterations)
    options: list[object] = [*HOSTS[cell.host], *ENCODERS[cell.encoder]]
    base = "dino_shapes"
    if dataset is not None:
        base = "dino_small"
        options += ["DATASETS.COCO", _coco_entries(dataset)]
        options += ["DATASETS.TRAIN", (f"{dataset.name}_train",)]
        options += ["DATASETS.TEST", (f"{dataset.name}_val",)]
        options += ["MODEL.DETR.NUM_CLASSES", _num_classes(dataset)]
    options += ["SOLVER.EPOCHS", 0, "SOLVER.MAX_ITER", iterations]
    options += ["SOLVER.STEPS", (max(1, iterations * 5 // 6),), "SOLVER.IMS_PER_BATCH", BATCH]
    options += ["SOLVER.CHECKPOINT_PERIOD", 50, "TEST.EVAL_PERIOD", 0, "SEED", cell.seed + 1]
    options += ["OUTPUT_DIR", str(folder / cell.name)]
    return model_zoo.get_config(f"quick_schedules/{base}", [str(x) for x in options])


def _coco_entries(dataset: Dataset) -> list[list[str]]:
    files = {"train": dataset.train_json, "val": dataset.val_json}
    return [[f"{dataset.name}_{x}", file, dataset.image_root] for x, file in files.items()]


def _num_classes(dataset: Dataset) -> int:
    try:
        return len(json.loads(Path(dataset.val_json).read_text())["categories"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"cannot read the categories of {dataset.val_json}: {error}") from error
