"""Figures of several panels in the style of all pictures: captions, legends and colour bars."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties

from .style import FONT, INK, MUTED, PAPER, Caption, fit_text, font

# Inches of a figure.
_CAPTION_HEIGHT = 0.36
_LEGEND_HEIGHT = 0.34


def new_captioned_figure(
    width: float, height: float, caption: Caption, *, legend: bool = False
) -> Figure:
    """An empty figure with a caption that arranges its parts itself.

    Args:
        width: in inches, of 100 pixels each.
        height: of what comes below the caption and above the legend.
        caption: written above.
        legend: leave room for :func:`add_legend`.
    """
    height += _CAPTION_HEIGHT + legend * _LEGEND_HEIGHT
    figure = Figure(figsize=(width, height), dpi=100, facecolor=PAPER)
    layout = {"w_pad": 0.04, "h_pad": 0.04, "rect": (0, 0, 1, 1 - _CAPTION_HEIGHT / height)}
    figure.set_layout_engine("constrained", **layout)
    bold, plain = font(15, bold=True), font(13)
    start = 10 + bold.getlength(caption.title) + 15
    details = fit_text(caption.details, 100 * width - start - 10, plain)
    y = 1 - 0.5 * _CAPTION_HEIGHT / height
    figure.text(0.1 / width, y, caption.title, **_text(15, bold=True))
    figure.text(start / (100 * width), y, details, **_text(13, color=MUTED))
    return figure


def _text(pixels: int, color: str = INK, bold: bool = False) -> dict[str, Any]:
    weight = "bold" if bold else "normal"
    size = pixels * 72 / 100  # Points, as the figure has 100 pixels in an inch.
    return {"family": FONT, "size": size, "color": color, "weight": weight, "va": "center_baseline"}


def set_panel_title(panel: Axes, title: str) -> None:
    """Write the title of one panel, and take its frame and ticks away."""
    panel.set_title(title, loc="left", fontsize=9, color=INK, family=FONT)
    panel.set_axis_off()


def set_row_title(panels: Sequence[Axes], title: str) -> None:
    """Write the title of a row of panels above their own, which are written before."""
    for panel in panels:
        # An empty line leaves room, in all panels of the row alike.
        set_panel_title(panel, f"\n{panel.get_title(loc='left')}")
    text = panels[0].annotate(
        title,
        xy=(0, 1),
        xycoords="axes fraction",
        xytext=(0, 25),
        textcoords="offset points",
        **_text(13, bold=True),
    )
    text.set_in_layout(False)  # It may be longer than its panel is wide.


def add_legend(figure: Figure, entries: Sequence[Artist]) -> None:
    """Explain markers and patches, which carry their labels, below a figure."""
    properties = FontProperties(family=FONT, size=9)
    figure.legend(
        handles=entries,
        loc="outside lower left",
        ncols=len(entries),
        frameon=False,
        prop=properties,
        labelcolor=INK,
        handletextpad=0.5,
        columnspacing=1.6,
    )


def add_color_bar(
    mappable: ScalarMappable,
    panels: Iterable[Axes],
    label: str,
    ticks: Sequence[float] | None = None,
) -> None:
    """Explain the colours of ``mappable`` at the right of panels of one figure."""
    panels = list(panels)
    figure = panels[0].get_figure()
    assert isinstance(figure, Figure)
    bar = figure.colorbar(mappable, ax=panels, fraction=0.03, pad=0.01, ticks=ticks)
    bar.set_label(label, fontsize=9, color=INK, family=FONT)
    bar.ax.tick_params(labelsize=8, colors=MUTED)
    bar.outline.set_visible(False)
