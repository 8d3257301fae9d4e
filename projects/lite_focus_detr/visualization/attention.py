"""Pictures of what deformable attention samples, and with which weights (Lite DETR, Fig. 5)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from torch import Tensor

from ..analysis.sampling import Samples
from .figures import add_legend, new_captioned_figure, set_panel_title, set_row_title
from .style import INK, QUERY_COLORS, Caption, Picture, darken

#: Area of the marker of all the weight of a head, in square points.
_AREA = 900.0
_SMALLEST_AREA = 3.0


class SampledModel(NamedTuple):
    """Samples of one model, a row of the picture."""

    name: str
    samples: Samples
    strides: tuple[int, ...]  #: pixels per token of each level
    boxes: Tensor | None = None  #: (N, 4) xyxy in [0, 1] that the model predicts for the queries


def draw_samples(image: Picture, models: Sequence[SampledModel], caption: Caption) -> Figure:
    """Draw samples on the image: one row for each model, one column for each level.

    Args:
        image: (H, W, 3) in RGB order.
        models: samples of different models for the same queries.
        caption: of the picture.

    Returns:
        The picture. A query and its samples have one colour; the area of a sample is its weight; a
        title says how much of all weight falls on the level.
    """
    height, width = image.shape[:2]
    num_levels = max(len(model.strides) for model in models)
    side = 3.4
    row = side * height / width + 0.55
    figure = new_captioned_figure(side * num_levels, row * len(models), caption, legend=True)
    grid = figure.subplots(len(models), num_levels, squeeze=False)
    background = darken(image)
    for panels, model in zip(grid, models, strict=True):
        shares = model.samples.weights.sum((0, 1, 3)) / model.samples.weights.sum()
        for level, panel in enumerate(panels):
            panel.set_visible(level < len(model.strides))
            if level < len(model.strides):
                panel.imshow(background, extent=(0, 1, 1, 0), aspect=height / width)
                _draw_level(panel, model, level)
                title = f"stride {model.strides[level]}: {shares[level]:.0%} of the weight"
                set_panel_title(panel, title)
        set_row_title(panels, model.name)
    add_legend(figure, _legend(len(models[0].samples.queries)))
    return figure


def _draw_level(panel: Axes, model: SampledModel, level: int) -> None:
    for index, (query_x, query_y) in enumerate(model.samples.queries.tolist()):
        color = query_color(index)
        if model.boxes is not None:
            left, top, right, bottom = model.boxes[index].tolist()
            box = Rectangle((left, top), right - left, bottom - top, fill=False, ec=color, lw=1.2)
            panel.add_patch(box)
        x, y = model.samples.locations[index, :, level].flatten(0, -2).T.numpy(force=True)
        weights = model.samples.weights[index, :, level].flatten().numpy(force=True)
        sizes = _SMALLEST_AREA + _AREA * weights
        panel.scatter(x, y, s=sizes, c=color, alpha=0.8, ec=INK, lw=0.5)
        for edge, line in ((INK, 3.6), (color, 1.8)):
            panel.scatter(query_x, query_y, c=edge, marker="+", s=170, linewidths=line, zorder=3)
    panel.set(xlim=(0, 1), ylim=(1, 0))


def query_color(index: int) -> str:
    """Colour of a query and of its samples."""
    return QUERY_COLORS[index % len(QUERY_COLORS)]


def _legend(num_queries: int) -> list[Artist]:
    entries: list[Artist] = []
    for index in range(num_queries):
        look: dict[str, Any] = {
            "marker": "P",
            "ms": 9,
            "c": query_color(index),
            "mec": INK,
            "mew": 0.6,
        }
        entries.append(Line2D([], [], ls="", label=f"query {index + 1}, its samples", **look))
    for weight in (0.01, 0.05, 0.2):
        size = (_SMALLEST_AREA + _AREA * weight) ** 0.5
        look = {"marker": "o", "ms": size, "c": "#9aa4af", "mec": INK, "mew": 0.5}
        entries.append(Line2D([], [], ls="", label=f"{weight:.0%} of a head's weight", **look))
    return entries
