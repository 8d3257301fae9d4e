"""AP of one trained detector with several budgets, over what they cost; for ``analyze_model``."""

from __future__ import annotations

import statistics
import tempfile
import time
import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog
from matplotlib.figure import Figure
from tabulate import tabulate

from ..analysis.complexity import measure_complexity
from ..config import ConfigFile
from ..data import DetrDatasetMapper
from ..data.validation import check_datasets
from ..engine import RUN_ERRORS, DetrTrainer, user_errors
from ..modeling import DetectionTransformer
from ..predictor import load_inference_config
from .command_line import output_errors, picture_file

KEEP_RATIOS = (0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0)
#: Images of the test set that the time is the median of, each in so many rounds.
TIMED_IMAGES = 5
ROUNDS = 3


class Budget(NamedTuple):
    """What a detector reaches with a keep ratio, and what that costs for an image."""

    keep_ratio: float
    ap: float
    gflops: float  #: of the whole detector
    seconds: float  #: likewise


def pareto(config_file: ConfigFile, options: list[str], file: str) -> None:
    """Evaluate a detector with all ``KEEP_RATIOS``; print a table and write a picture.

    Args:
        config_file: a file, a name in the model zoo, or what a checkpoint holds.
        options: ``KEY VALUE ...``, with ``MODEL.WEIGHTS``.
        file: of the picture.
    """
    with user_errors():
        picture = picture_file(file)
        cfg = load_inference_config(config_file, options)
        check_datasets(cfg, eval_only=True)
        model = DetrTrainer.load_model(cfg)
        assert isinstance(model, DetectionTransformer)
        model.set_budget(None)
    with user_errors(*RUN_ERRORS):
        budgets = measure_budgets(cfg, model, KEEP_RATIOS)
    print(table(budgets))
    with output_errors("--pareto"):
        plot(budgets).savefig(picture)
    print(f"\nThe picture is {picture}")


def measure_budgets(
    cfg: CfgNode, model: DetectionTransformer, keep_ratios: Sequence[float]
) -> list[Budget]:
    """AP on the first data set of ``DATASETS.TEST``, GFLOPs and time with each keep ratio."""
    model.eval()
    cfg = cfg.clone()
    cfg.defrost()
    cfg.DATASETS.TEST = cfg.DATASETS.TEST[:1]
    mapper = DetrDatasetMapper(cfg, is_train=False)
    records = DatasetCatalog.get(cfg.DATASETS.TEST[0])[:TIMED_IMAGES]
    inputs = [mapper(record) for record in records]
    height, width = inputs[0]["image"].shape[-2:]

    costs = []
    with tempfile.TemporaryDirectory() as folder:
        cfg.OUTPUT_DIR = folder  # that of the detector keeps its own detections
        for keep_ratio in keep_ratios:
            model.set_budget(keep_ratio)
            results = DetrTrainer.test(cfg, model)["bbox"]
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                flops = measure_complexity(model, height, width).flops["total"]
            costs.append((keep_ratio, float(results["AP"]), flops / 1e9))
    seconds = _interleaved_seconds(model, inputs, keep_ratios)
    model.set_budget(None)
    return [Budget(*row, seconds[row[0]]) for row in costs]


def _interleaved_seconds(
    model: DetectionTransformer, inputs: Sequence[dict[str, Any]], keep_ratios: Sequence[float]
) -> dict[float, float]:
    """Median time of an image with each keep ratio, which take turns."""
    runs: dict[float, list[float]] = {keep_ratio: [] for keep_ratio in keep_ratios}
    for _ in range(ROUNDS):
        for keep_ratio in keep_ratios:
            model.set_budget(keep_ratio)
            for image in inputs:
                start = time.perf_counter()
                with torch.inference_mode():
                    model([image])
                runs[keep_ratio].append(time.perf_counter() - start)
    return {keep_ratio: statistics.median(seconds) for keep_ratio, seconds in runs.items()}


def table(budgets: Sequence[Budget]) -> str:
    """One row per budget."""
    rows = [(x.keep_ratio, x.ap, x.gflops, 1e3 * x.seconds) for x in budgets]
    headers = ("keep ratio", "AP", "GFLOPs", "ms")
    return str(
        tabulate(rows, headers=headers, tablefmt="github", floatfmt=("g", ".1f", ".4g", ".3g"))
    )


def plot(budgets: Sequence[Budget]) -> Figure:
    """AP over GFLOPs and over milliseconds, every point with its keep ratio."""
    figure = Figure(figsize=(9, 4), layout="constrained")
    costs = {
        "GFLOPs of the detector": [x.gflops for x in budgets],
        "ms for an image": [1e3 * x.seconds for x in budgets],
    }
    for axes, (title, values) in zip(figure.subplots(1, 2), costs.items(), strict=True):
        axes.plot(values, [x.ap for x in budgets], "o-")
        for value, budget in zip(values, budgets, strict=True):
            axes.annotate(f" {budget.keep_ratio:g}", (value, budget.ap))
        axes.set_xlabel(title)
        axes.set_ylabel("AP")
    return figure
