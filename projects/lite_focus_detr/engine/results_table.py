"""The results of an evaluation in a few lines."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from detectron2.config import CfgNode
from tabulate import tabulate

from ..screen import screen

METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl")
#: Classes are shown where there are not more.
MAX_CLASSES = 20
_CLASSES_PER_LINE = 5


def show_results(cfg: CfgNode, results: Mapping[str, Any], *, iterations: int) -> None:
    """Show an evaluation on the screen: in one line during a training, else as a table.

    Args:
        cfg: complete configuration.
        results: of detectron2's evaluators, for one data set or by data set.
        iterations: that have been made.
    """
    if iterations < cfg.SOLVER.MAX_ITER:
        screen.info("evaluation after %d: %s", iterations, format_result_line(results))
    else:
        screen.info("%s", format_results(results, cfg.DATASETS.TEST[0]))


def format_results(results: Mapping[str, Any], where: str = "") -> str:
    """AP, and AP by class where there are few, as a table for each data set.

    Args:
        results: of detectron2's evaluators, for one data set or by data set.
        where: the name of the data set, if it is one.
    """
    return "\n".join(_format_table(box, name or where) for name, box in _box_results(results, ""))


def format_result_line(results: Mapping[str, Any]) -> str:
    """AP in one line, of the first data set.

    Args:
        results: see :func:`format_results`.
    """
    boxes = next((box for _, box in _box_results(results, "")), {})
    found = [f"{name} {_percent(boxes[name])}" for name in METRICS if name in boxes]
    return "  ".join(found) or "no results for boxes"


def _box_results(
    results: Mapping[str, Any], name: str
) -> Iterator[tuple[str, Mapping[str, float]]]:
    for key, value in results.items():
        if key == "bbox":
            yield name, value
        elif isinstance(value, Mapping):
            yield from _box_results(value, key)


def _format_table(box: Mapping[str, float], name: str) -> str:
    found = [metric for metric in METRICS if metric in box]
    row = [[_percent(box[metric]) for metric in found]]
    lines = [f"Results on {name}:" if name else "Results:"]
    lines.append(
        tabulate(row, headers=found, tablefmt="plain", stralign="right", disable_numparse=True)
    )
    if "threshold" in box and not math.isnan(box["threshold"]):
        lines.append(
            f"F1 is greatest, {_percent(box['F1'])}, at the confidence {box['threshold']:.2f}"
        )
    return "\n".join([*lines, *_class_lines(box)])


def _class_lines(box: Mapping[str, float]) -> Iterator[str]:
    prefix, label = "AP-", "AP by class: "
    classes = {key.removeprefix(prefix): box[key] for key in box if key.startswith(prefix)}
    if not 1 < len(classes) <= MAX_CLASSES:
        return
    entries = [f"{key} {_percent(value)}" for key, value in classes.items()]
    for start in range(0, len(entries), _CLASSES_PER_LINE):
        begin = " " * len(label) if start else label
        yield begin + "  ".join(entries[start : start + _CLASSES_PER_LINE])


def _percent(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.1f}"
