"""Pictures of the tokens that a selective encoder keeps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize, to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from torch import Tensor

from ..analysis.token_selection import ImageTrace
from .figures import add_color_bar, add_legend, new_captioned_figure, set_panel_title
from .style import DROPPED, HEAT, KEPT, OBJECT, Caption, Color, Picture, mix

Map = npt.NDArray[np.float32]

_KEPT_TINT = 0.25
_OBJECT_TINT = 0.55
_DROPPED_BRIGHTNESS = 0.3
# So many find room in the legend.
_MAX_CLASSES = 6


class Truth(NamedTuple):
    """The ground truth of an image, drawn."""

    picture: Picture
    legend: list[tuple[str, Color]]  #: classes and their colours


def draw_selection(truth: Truth, image: Picture, trace: ImageTrace, caption: Caption) -> Figure:
    """Draw what the encoder kept of an image beside its ground truth.

    The first row has the ground truth and the foreground probability of each level; below, a row
    per encoder layer has the number of levels that keep a token on each place, and the tokens of
    each level: kept, object tokens, dropped.

    Args:
        truth: of the image.
        image: (H, W, 3) RGB.
        trace: of this image.
        caption: of the picture.
    """
    rows, columns = 1 + len(trace.kept), 1 + len(trace.tokens.spatial_shapes)
    side = 2.8
    size = (side * columns + 0.8, rows * (side * image.shape[0] / image.shape[1] + 0.3))
    figure = new_captioned_figure(*size, caption, legend=True)
    panels = figure.subplots(rows, columns, squeeze=False)
    panels[0, 0].imshow(truth.picture)
    set_panel_title(panels[0, 0], "ground truth")
    _draw_foreground(panels[0], image, trace)
    counts = [_draw_layer(panels[1 + i], image, trace, i) for i in range(len(trace.kept))]
    add_color_bar(counts[0], panels[1:].flat, "levels that keep a token", range(columns))
    entries = [
        Patch(color=mix("white", KEPT, 2 * _KEPT_TINT), label="kept"),
        Patch(color=mix("white", OBJECT, _OBJECT_TINT), label="kept, object token"),
        Patch(color=DROPPED, label="dropped"),
    ]
    for name, color in truth.legend[:_MAX_CLASSES]:
        entries.append(Patch(fill=False, ec=[x / 255 for x in color], lw=1.5, label=name))
    add_legend(figure, entries)
    return figure


def _draw_foreground(panels: Sequence[Axes], image: Picture, trace: ImageTrace) -> None:
    tokens, probability = trace.tokens, trace.foreground.sigmoid()
    scale = Normalize(float(probability.min()), float(probability.max()))
    maps = _paint(probability, trace, *image.shape[:2])
    for panel, scores, (rows, columns), stride in zip(
        panels[1:], maps, tokens.spatial_shapes, tokens.strides, strict=True
    ):
        panel.imshow(image)
        heat = panel.imshow(scores, alpha=0.6, cmap=HEAT, norm=scale)
        set_panel_title(panel, f"stride {stride}, {rows}x{columns} tokens")
    add_color_bar(heat, panels, "foreground probability")


def _draw_layer(
    panels: Sequence[Axes], image: Picture, trace: ImageTrace, layer: int
) -> ScalarMappable:
    """Draw a row; returns the map of counts, which a colour bar explains."""
    height, width = image.shape[:2]
    shapes = trace.tokens.spatial_shapes
    kept, objects = trace.kept[layer], trace.objects[layer]
    kept_maps, object_maps = (_paint(x, trace, height, width) for x in (kept, objects))
    colors = colormaps[HEAT].resampled(len(shapes) + 1)
    scale = Normalize(-0.5, len(shapes) + 0.5)
    counts = panels[0].imshow(np.sum(kept_maps, axis=0), cmap=colors, norm=scale)
    share = float(kept.float().mean())
    set_panel_title(panels[0], f"layer {layer + 1}: {int(kept.sum())} kept, {share:.0%}")
    numbers = [torch.split(x, [h * w for h, w in shapes]) for x in (kept, objects)]
    for level, (chosen, special) in enumerate(zip(kept_maps, object_maps, strict=True)):
        panels[1 + level].imshow(_highlight(image, chosen, special))
        num_kept, num_objects = (int(x[level].sum()) for x in numbers)
        of_them = f", {num_objects} objects" if objects.any() else ""
        set_panel_title(panels[1 + level], f"{num_kept} kept{of_them}")
    return counts


def _paint(values: Tensor, trace: ImageTrace, height: int, width: int) -> list[Map]:
    """Values (S,) as one map (height, width) for each level: every pixel has that of its token."""
    tokens = trace.tokens
    parts = torch.split(values.float(), [rows * columns for rows, columns in tokens.spatial_shapes])
    # The image was resized for the detector, whose strides are in its pixels.
    resized_height, resized_width = tokens.image_sizes[0]
    y = (np.arange(height) + 0.5) * resized_height / height
    x = (np.arange(width) + 0.5) * resized_width / width
    maps = []
    for part, (rows, columns), stride in zip(
        parts, tokens.spatial_shapes, tokens.strides, strict=True
    ):
        row = np.minimum(y // stride, rows - 1).astype(int)
        column = np.minimum(x // stride, columns - 1).astype(int)
        maps.append(part.view(rows, columns).numpy()[row[:, None], column])
    return maps


def _highlight(image: Picture, kept: Map, objects: Map) -> Map:
    """The image, dark where a token is dropped, tinted where it is kept or an object token."""
    kept_mask, object_mask = kept[..., None] > 0, objects[..., None] > 0
    picture = image.astype(np.float32) / 255
    tint = np.where(object_mask, to_rgb(OBJECT), to_rgb(KEPT))
    share = np.where(object_mask, _OBJECT_TINT, _KEPT_TINT)
    tinted = (1 - share) * picture + share * tint
    grey = _DROPPED_BRIGHTNESS * picture.mean(-1, keepdims=True)
    return np.asarray(np.where(kept_mask, tinted, grey), dtype=np.float32)
