"""The document of a study: tables, a plot, and copies of the metrics that they come from."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from detectron2.config import CfgNode
from matplotlib.figure import Figure
from tabulate import tabulate

from ...analysis.complexity import measure_complexity
from ...analysis.token_selection import SIZES
from ...ops import backend
from ..benchmark.encoders import build_detector, make_workloads
from ..benchmark.measure import measure, processor, with_operators
from .suite import BATCH, ENCODERS, SPARSIFIED, Cell
from .training import RESULT

#: The file with the costs of the encoders, in the folder of the study.
COSTS = "costs.json"
ROUNDS = 9

#: Metrics of detectron2, and their columns.
METRICS = {"AP": "AP", "AP50": "AP50", "APs": "small", "APm": "medium", "APl": "large"}

Results = Mapping[Cell, Mapping[str, Any]]


class Group(NamedTuple):
    """What is compared in one table."""

    dataset: str
    host: str

    @classmethod
    def of(cls, cell: Cell) -> Group:
        """The table that a training belongs to."""
        return cls(cell.dataset, cell.host)


def read_results(folder: Path, cells: Sequence[Cell]) -> dict[Cell, dict[str, Any]]:
    """What the finished trainings left, in the order of the suite."""
    files = {cell: folder / cell.name / RESULT for cell in cells}
    return {cell: json.loads(file.read_text()) for cell, file in files.items() if file.is_file()}


def measure_costs(configs: Mapping[str, CfgNode], image_size: tuple[int, int]) -> dict[str, Any]:
    """GFLOPs and time of encoders, by their names; the times are interleaved medians."""
    kinds = [backend("cpu")]
    workloads = partial(make_workloads, configs, image_size, "cpu", False)
    measured = measure(partial(with_operators, workloads, kinds), ROUNDS, "cpu")
    costs = {}
    for name, cfg in configs.items():
        complexity = measure_complexity(build_detector(cfg, "cpu"), *image_size)
        seconds = measured[name, kinds[0]].cpu_seconds
        costs[name] = {"gflops": complexity.flops["encoder"] / 1e9, "seconds": seconds}
    return {"processor": processor(), "image_size": image_size, "encoders": costs}


def take_results(document: Path, folder: Path, cells: Sequence[Cell], iterations: int) -> None:
    """Copy the results beside a document of an earlier run, maybe on another machine, to the
    folder of the study, of trainings of as many ``iterations`` that have not been begun there, and
    the costs, if there are none.

    A dense detector that is yet to be made sparse is left out: its weights are needed.
    """
    found = read_results(document.with_suffix(""), cells)
    needed = {cell.dense for cell in cells if cell.encoder == SPARSIFIED and cell not in found}
    for cell, result in found.items():
        begun = (folder / cell.name).exists()
        if not begun and cell not in needed and result["iterations"] == iterations:
            _copy_files(document.with_suffix("") / cell.name, folder / cell.name)
    costs = document.with_suffix("") / COSTS
    if costs.is_file() and not (folder / COSTS).exists():
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(costs, folder)


def require_iterations(folder: Path, cells: Sequence[Cell], iterations: int) -> None:
    """Raise a ValueError if a training of a study had another number of ``iterations``."""
    for cell, result in read_results(folder, cells).items():
        if result["iterations"] != iterations:
            raise ValueError(
                f"{folder / cell.name} is a training of {result['iterations']} iterations, not of "
                f"{iterations}: choose another --output"
            )


def require_whole(document: Path, cells: Sequence[Cell]) -> None:
    """Raise a ValueError if a document has results that a study of ``cells`` would leave out."""
    names = {cell.name for cell in cells}
    for path in sorted(document.with_suffix("").glob(f"*/{RESULT}")):
        if path.parent.name not in names:
            raise ValueError(
                f"{document} has the result of {path.parent.name}, which is not in this study: "
                "give the --coco and --seeds that it was made with, or another --document"
            )


def _copy_files(source: Path, target: Path) -> None:
    target.mkdir(parents=True, exist_ok=True)
    # What says that the training is finished comes last.
    for name in ("metrics.json", RESULT):
        shutil.copy(source / name, target)


def write_document(document: Path, folder: Path, cells: Sequence[Cell], costs: Any) -> None:
    """Write the comparison of what is finished.

    Args:
        document: a Markdown file; what it is made of goes to a folder of its name beside it.
        folder: of the study.
        cells: of the suite, in order.
        costs: see :func:`measure_costs`, by data set.
    """
    results = read_results(folder, cells)
    beside = document.with_suffix("")
    beside.mkdir(parents=True, exist_ok=True)
    (beside / COSTS).write_text(json.dumps(costs, indent=1) + "\n")
    for cell in results:
        _copy_files(folder / cell.name, beside / cell.name)
    groups = list(dict.fromkeys(map(Group.of, results)))
    parts = [_introduction(results)]
    parts += [_section(group, results, costs.get(group.dataset), beside.name) for group in groups]
    if results:
        plot(results, costs).savefig(beside / "ap_over_gflops.png", dpi=110)
        picture = f"{beside.name}/ap_over_gflops.png"
        parts.append(f"![AP over GFLOPs of the encoder]({picture})\n")
    parts.append(_missing(cells, results))
    document.write_text("\n".join(parts))


def _introduction(results: Results) -> str:
    iterations = sorted({result["iterations"] for result in results.values()})
    return (
        "# Comparison of the encoders\n\n"
        "Small detectors with an encoder of two layers, trained from scratch on a processor by "
        "`python -m lite_focus_detr.tools.study`, which wrote this page. Every row has the same "
        "backbone, decoder, data, seeds and schedule as the dense encoder of its table: "
        f"{' or '.join(map(str, iterations))} iterations of {BATCH} images. `{SPARSIFIED}` is not "
        "trained from scratch: it is the dense detector of the same seed, and the iterations are "
        "those of the parts that are added to it. So short trainings of "
        "so small models say which encoder learns how fast; they are no measure of what the "
        "published models reach.\n\n"
        "AP is COCO's, in percent, mean ± standard deviation over the seeds where there are "
        "several; *to dense* is the mean difference to the dense run of the same seed. *Recall* is "
        "the share of the tokens in ground-truth boxes that the last encoder layer updates, by "
        "the size of the object in pixels of the file. *Step* is the processor time of a training "
        "step of the main process, *encoder* that of the encoder for one image.\n"
    )


def _section(group: Group, results: Results, costs: Any, beside: str) -> str:
    members = {cell: result for cell, result in results.items() if Group.of(cell) == group}
    rows = [
        _row(encoder, {c: r for c, r in members.items() if c.encoder == encoder}, members, costs)
        for encoder in ENCODERS
        if any(cell.encoder == encoder for cell in members)
    ]
    table = tabulate(rows, headers="keys", tablefmt="github", disable_numparse=True)
    files = ", ".join(f"[`{cell.name}`]({beside}/{cell.name}/metrics.json)" for cell in members)
    measured = ""
    if costs:
        height, width = costs["image_size"]
        measured = f"Costs for an image of {height}x{width}, times on {costs['processor']}.\n\n"
    title = f"## {group.dataset}, {group.host.replace('_', '-')}"
    return f"{title}\n\n{table}\n\n{measured}From the metrics.json of {files}.\n"


def _row(encoder: str, runs: Results, members: Results, costs: Any) -> dict[str, str]:
    row = {"encoder": f"`{encoder}`", "seeds": str(len(runs))}
    for key, title in METRICS.items():
        row[title] = _spread([result["ap"][key] for result in runs.values()])
    row["to dense"] = _difference(runs, members)
    row |= _recall(runs)
    # A training that was stopped after its last step has no time.
    steps = [result["step_seconds"] for result in runs.values() if result["step_seconds"]]
    row["step s"] = f"{np.mean(steps):.2f}" if steps else ""
    cost = costs["encoders"].get(encoder) if costs else None
    row["encoder ms"] = f"{1e3 * cost['seconds']:.1f}" if cost else ""
    row["GFLOPs"] = f"{cost['gflops']:.3f}" if cost else ""
    return row


def _difference(runs: Results, members: Results) -> str:
    """Mean of the AP's differences to the dense runs of the same seeds."""
    dense = {cell.seed: r["ap"]["AP"] for cell, r in members.items() if cell.encoder == "dense"}
    values = [r["ap"]["AP"] - dense[cell.seed] for cell, r in runs.items() if cell.seed in dense]
    return f"{np.mean(values):+.1f}" if values else ""


def _recall(runs: Results) -> dict[str, str]:
    recalls = [result["recall"] for result in runs.values() if result["recall"]]
    means = {size: np.mean([x[size] for x in recalls]) if recalls else None for size in SIZES}
    # None: all tokens are updated. NaN: there are no objects of this size.
    texts = {
        size: "1" if x is None else "" if np.isnan(x) else f"{x:.2f}" for size, x in means.items()
    }
    return {f"recall {size}": text for size, text in texts.items()}


def _spread(values: Sequence[float]) -> str:
    if np.isnan(values).all():
        return ""  # There are no objects of this size.
    mean = f"{np.mean(values):.1f}"
    return f"{mean} ± {np.std(values, ddof=1):.1f}" if len(values) > 1 else mean


def _missing(cells: Sequence[Cell], results: Results) -> str:
    missing = [f"`{cell.name}`" for cell in cells if cell not in results]
    if not missing:
        return "All trainings of the suite are finished.\n"
    return (
        f"{len(results)} of {len(cells)} trainings of the suite are finished. Missing: "
        f"{', '.join(missing)}.\n"
    )


def plot(results: Results, costs: Any) -> Figure:
    """AP over the GFLOPs of the encoder, one panel per table."""
    groups = list(dict.fromkeys(map(Group.of, results)))
    figure = Figure(figsize=(5 * len(groups), 4), layout="constrained")
    panels = figure.subplots(1, len(groups), squeeze=False)[0]
    for group, axes in zip(groups, panels, strict=True):
        known = (costs.get(group.dataset) or {"encoders": {}})["encoders"]
        for encoder in known:
            runs = [c for c in results if Group.of(c) == group and c.encoder == encoder]
            if runs:
                ap = np.mean([results[cell]["ap"]["AP"] for cell in runs])
                point = (known[encoder]["gflops"], ap)
                axes.plot(*point, "o")
                axes.annotate(encoder, point, fontsize=7)
        axes.set_title(f"{group.dataset}, {group.host}")
        axes.set_xlabel("GFLOPs of the encoder")
        axes.set_ylabel("AP")
    return figure
