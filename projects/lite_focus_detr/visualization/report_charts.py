"""Charts of a report as SVG that takes its colours from the page."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from html import escape
from typing import Any

import matplotlib
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..analysis.detection_quality import DetectionQuality
from ..analysis.score_curve import ScoreCurve
from .style import CLASS_COLORS, FONT, INK, MUTED

Array = npt.NDArray[np.float64]

#: Lines of classes in one chart; the classes with the most objects.
MAX_CLASSES = 8
#: Lines of fewer points show them.
MARKED = 40
# Colours of the figure, and the variables of the page that take their place.
_GRID = "#d0d7de"
_VARIABLES = {INK: "ink", MUTED: "muted", _GRID: "line"} | {
    color: f"class-{index}" for index, color in enumerate(CLASS_COLORS)
}
_SIZE = (4.6, 2.9)  # Inches: on a phone the text of the chart is hardly reduced.
_ROW = 0.2  # of a row of the legend
# Letters of a name in the legend, and of a row of it.
_NAME, _LINE = 22, 70
_STYLE: dict[str, Any] = {
    "svg.fonttype": "none",
    "font.family": FONT,
    "font.size": 10,
    "text.parse_math": False,  # Names of classes are no formulas.
    "text.color": INK,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": MUTED,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": _GRID,
    "grid.linewidth": 0.6,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "lines.linewidth": 1.6,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "legend.labelcolor": INK,
}


def draw_chart(name: str, draw: Callable[[Axes], None]) -> str:
    """An SVG element with one chart.

    Args:
        name: what the chart shows, for those who cannot see it.
        draw: draws it.
    """
    style: Any = {**_STYLE, "svg.hashsalt": name}  # typed by the names of all parameters
    with matplotlib.rc_context(style), warnings.catch_warnings():
        # Browsers have the glyphs that matplotlib's font lacks.
        warnings.filterwarnings("ignore", "Glyph")
        figure = Figure(figsize=_SIZE, layout="constrained")
        axes = figure.add_subplot()
        draw(axes)
        _add_legend(figure, axes)
        file = io.StringIO()
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    return _for_page(file.getvalue(), name)


def _add_legend(figure: Figure, axes: Axes) -> None:
    """Name the lines below the chart, where they cover nothing."""
    handles, names = axes.get_legend_handles_labels()
    labels = [name if len(name) <= _NAME else f"{name[: _NAME - 1]}…" for name in names]
    columns = max(1, min(len(labels), _LINE // (max(map(len, labels)) + 6)))
    width, height = _SIZE
    figure.set_size_inches(width, height + _ROW * -(-len(labels) // columns))
    figure.legend(handles, labels, loc="outside lower center", ncols=columns)


def _for_page(svg: str, name: str) -> str:
    """The element alone, as wide as the page lets it be, in its colours."""
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    head = f'<svg role="img" aria-label="{escape(name, quote=True)}"'
    svg = re.sub(r' (?:width|height)="[\d.]+pt"', "", svg, count=2).replace("<svg", head, 1)
    for color, variable in _VARIABLES.items():
        svg = svg.replace(color, f"var(--{variable})")
    return svg


def draw_precision(quality: DetectionQuality) -> str:
    """Precision over recall at three IoU thresholds, the mean of the classes."""

    def draw(axes: Axes) -> None:
        """Draw it."""
        for index, (iou, precision) in enumerate(quality.precision.items()):
            recall = np.linspace(0, 1, len(precision))
            axes.plot(recall, precision, color=CLASS_COLORS[index], label=f"IoU {iou}")
        axes.set(xlabel="recall", ylabel="precision", xlim=(0, 1), ylim=(0, 1.02))

    return draw_chart("Precision over recall", draw)


def draw_f1(quality: DetectionQuality) -> str:
    """F1 over the score threshold, of all objects and of the largest classes."""

    def draw(axes: Axes) -> None:
        """Draw it."""
        classes = largest_classes(quality)
        for index in classes if len(quality.classes) > 1 else ():
            found = quality.classes[index]
            color = CLASS_COLORS[index % len(CLASS_COLORS)]
            axes.plot(*_steps(found.curve, found.curve.f1), color=color, lw=1, label=found.name)
        axes.plot(*_steps(quality.curve, quality.curve.f1), color=INK, lw=2.2, label="all objects")
        if quality.threshold is not None:
            axes.axvline(quality.threshold, color=MUTED, ls="--", lw=1)
            axes.annotate(
                f"best: {quality.threshold:.2f}",
                (quality.threshold, 1.0),
                xytext=(5, 0),
                textcoords="offset points",
                va="top",
            )
        axes.set(xlabel="score threshold", ylabel="F1", xlim=(0, 1), ylim=(0, 1.02))

    return draw_chart("F1 over the score threshold", draw)


def largest_classes(quality: DetectionQuality) -> list[int]:
    """The classes with the most objects, at most ``MAX_CLASSES``, in their order."""
    by_size = sorted(
        range(len(quality.classes)), key=lambda index: -quality.classes[index].num_objects
    )
    return sorted(by_size[:MAX_CLASSES])


def _steps(curve: ScoreCurve, values: Array) -> tuple[Array, Array]:
    """At most some hundred points of a curve: a line of thousands would make the page large."""
    step = 1 + len(values) // 400
    return curve.scores[::step], values[::step]


def draw_history(rows: Sequence[Mapping[str, float]], name: str, keys: Mapping[str, str]) -> str:
    """Metrics of a training over its iterations.

    Args:
        rows: of the metrics file.
        name: of the chart and its vertical axis.
        keys: metrics to draw, and what to call them.
    """

    def draw(axes: Axes) -> None:
        """Draw it."""
        for index, (key, label) in enumerate(keys.items()):
            points = np.array([(row["iteration"], row[key]) for row in rows if key in row])
            marker = "o" if len(points) < MARKED else None
            color = CLASS_COLORS[index % len(CLASS_COLORS)]
            axes.plot(*points.T, color=color, label=label, marker=marker, ms=3)
        axes.set(xlabel="iteration", ylabel=name, xlim=(0, None))

    return draw_chart(f"{name} over the iterations", draw)
