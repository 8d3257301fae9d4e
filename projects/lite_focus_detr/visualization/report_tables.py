"""Tables of a report as HTML; everything that comes from files is escaped."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from html import escape

import numpy as np

from ..analysis.detection_quality import Confusion, DetectionQuality, ErrorType
from .style import CLASS_COLORS

#: With more classes the most frequent confusions are listed instead of a matrix.
MAX_MATRIX = 20
#: Where there is no number.
NOTHING = "-"
_SHOWN_CONFUSIONS = 20
_ERRORS = {
    "Cls": ("wrong class", "the right place, another class"),
    "Loc": ("bad box", "the right class, an IoU of 0.1 to 0.5"),
    "Both": ("both", "another class, and an IoU of 0.1 to 0.5"),
    "Dupe": ("duplicate", "an object that a better detection has found already"),
    "Bkg": ("background", "where there is nothing"),
    "Miss": ("missed", "no detection comes near, or only one of the other kinds"),
}


def percent(value: float | None) -> str:
    """A share with one decimal, as AP is printed."""
    return NOTHING if value is None or math.isnan(value) else f"{100 * value:.1f}"


def number(value: float | None) -> str:
    """A score."""
    return NOTHING if value is None else f"{value:.2f}"


def class_table(quality: DetectionQuality) -> str:
    """A row of each class, after one of all."""
    heads = ("class", "objects", "AP", "AP50", "AP75", "precision", "recall", "F1")
    threshold = 2.0 if quality.threshold is None else quality.threshold
    num_objects = sum(found.num_objects for found in quality.classes)
    aps = [quality.metrics[key] for key in ("AP", "AP50", "AP75")]
    rows = [_all_row("all", num_objects, [*aps, *quality.curve.at(threshold)])]
    for index, found in enumerate(quality.classes):
        values = [found.ap, found.ap50, found.ap75, *found.curve.at(threshold)]
        cells = "".join(map(_heat, values))
        rows.append(f"<tr>{_name(index, found.name)}<td>{found.num_objects}</td>{cells}</tr>")
    return _table(heads, rows)


def _all_row(name: str, count: int, values: Iterable[float]) -> str:
    cells = "".join(map(_heat, values))
    return f'<tr class="all"><th scope="row">{name}</th><td>{count}</td>{cells}</tr>'


def size_table(quality: DetectionQuality) -> str:
    """A row of each size."""
    rows = [
        f'<tr><th scope="row">{name}</th><td>{size.num_objects}</td>'
        f"{_heat(size.ap)}{_heat(size.recall)}</tr>"
        for name, size in quality.sizes.items()
    ]
    return _table(("size", "objects", "AP", "AR"), rows)


def confusion_table(confusion: Confusion) -> str:
    """The matrix, or where there are many classes the most frequent confusions."""
    if len(confusion.names) > MAX_MATRIX + 1:
        return _confusion_list(confusion)
    totals = confusion.counts.sum(1, keepdims=True)
    shares = confusion.counts / np.maximum(totals, 1)
    rows = []
    for index, name in enumerate(confusion.names):
        is_class = index < len(confusion.names) - 1
        head = _name(index, name) if is_class else f'<th scope="row">{name}</th>'
        cells = [
            "<td></td>" if not is_class and column == index else _heat(share, str(count))
            for column, (share, count) in enumerate(
                zip(shares[index], confusion.counts[index], strict=True)
            )
        ]
        rows.append(f"<tr>{head}{''.join(cells)}</tr>")
    return _table(("object", *confusion.names), rows)


def _confusion_list(confusion: Confusion) -> str:
    counts = confusion.counts.copy()
    np.fill_diagonal(counts, 0)
    order = np.argsort(-counts, axis=None, kind="stable")[:_SHOWN_CONFUSIONS]
    rows = []
    for truth, found in zip(*np.unravel_index(order, counts.shape), strict=True):
        if counts[truth, found]:
            names = (escape(confusion.names[i]) for i in (truth, found))
            cells = "".join(f'<td class="text">{name}</td>' for name in names)
            rows.append(f"<tr>{cells}<td>{counts[truth, found]}</td></tr>")
    return _table(("object", "taken for", "times"), rows)


def error_table(errors: Mapping[str, ErrorType]) -> str:
    """A row of each kind of error, with a bar."""
    most = max((error.ap_lost for error in errors.values()), default=0) or 1
    rows = []
    for key, (name, meaning) in _ERRORS.items():
        error = errors[key]
        width = max(0, 100 * error.ap_lost / most)
        rows.append(
            f'<tr><th scope="row">{name}<small>{meaning}</small></th>'
            f"<td>{percent(error.ap_lost)}</td>"
            f'<td class="bars"><span class="bar" style="width: {width:.1f}%"></span></td>'
            f"<td>{error.count}</td></tr>"
        )
    return _table(("error", "AP50 lost", "", "errors"), rows)


def selection_table(caption: str, layers: Sequence[Mapping[str, float]]) -> str:
    """A row of each encoder layer, a column of each size of objects.

    Args:
        caption: of the table.
        layers: shares by size, in [0, 1].
    """
    rows = [
        f'<tr><th scope="row">layer {index}</th>{"".join(map(_heat, layer.values()))}</tr>'
        for index, layer in enumerate(layers, 1)
    ]
    return _table(("%", *layers[0]), rows, caption)


def _name(index: int, name: str) -> str:
    key = f'<span class="key" style="background: var(--class-{index % len(CLASS_COLORS)})"></span>'
    name = escape(name)
    return f'<th scope="row" class="name" title="{name}">{key}{name}</th>'


def _heat(value: float, text: str | None = None) -> str:
    """A cell whose background grows with a share in [0, 1]."""
    if math.isnan(value):
        return f"<td>{NOTHING}</td>"
    return f'<td class="heat" style="--share: {value:.3f}">{text or percent(value)}</td>'


def _table(heads: Iterable[str], rows: Iterable[str], caption: str = "") -> str:
    titles = "".join(f'<th scope="col">{escape(head)}</th>' for head in heads)
    above = f"<caption>{escape(caption)}</caption>" if caption else ""
    body = "\n".join(rows)
    return (
        f'<div class="scroll"><table>{above}<thead><tr>{titles}</tr></thead>\n'
        f"<tbody>{body}</tbody></table></div>"
    )
