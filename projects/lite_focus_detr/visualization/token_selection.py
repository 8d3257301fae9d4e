"""Pictures of the tokens that a selective encoder keeps."""

from __future__ import annotations

import matplotlib
import numpy as np
import numpy.typing as npt
import torch
from matplotlib.figure import Figure
from torch import Tensor

from ..analysis.token_selection import ImageTrace
from .detections import Picture

KEPT = np.array([0.1, 0.5, 1.0], dtype=np.float32)
OBJECT = np.array([1.0, 0.2, 0.1], dtype=np.float32)
_HEAT = matplotlib.colormaps["viridis"]


def draw_selection(truth: Picture, image: Picture, trace: ImageTrace) -> Figure:
    """Draw what the encoder kept of an image beside its ground truth.

    The first row has the ground truth and the foreground probability of each level; below, a row
    per encoder layer has the number of kept tokens on each place, over all levels, and the tokens
    of each level: kept in blue, object tokens in red.

    Args:
        truth: (H, W, 3) RGB, the ground truth drawn.
        image: (H, W, 3) RGB.
        trace: of this image.
    """
    shapes = trace.tokens.spatial_shapes
    rows, columns = 1 + len(trace.kept), 1 + len(shapes)
    height, width = image.shape[:2]
    figure = Figure(figsize=(2.6 * columns, 2.6 * rows * height / width + 0.4 * rows))
    axes = figure.subplots(rows, columns, squeeze=False)
    axes[0, 0].imshow(truth)
    axes[0, 0].set_title("ground truth")
    probability = trace.foreground.sigmoid()
    limits = {"vmin": float(probability.min()), "vmax": float(probability.max())}
    for level, scores in enumerate(_paint(probability, trace, height, width)):
        axes[0, 1 + level].imshow(image)
        axes[0, 1 + level].imshow(scores, alpha=0.6, cmap=_HEAT, **limits)
        axes[0, 1 + level].set_title(f"foreground {shapes[level][0]}x{shapes[level][1]}")
    for layer, (kept, objects) in enumerate(zip(trace.kept, trace.objects, strict=True)):
        kept_maps = _paint(kept, trace, height, width)
        object_maps = _paint(objects, trace, height, width)
        axes[1 + layer, 0].imshow(sum(kept_maps), vmin=0, vmax=len(shapes), cmap=_HEAT)
        axes[1 + layer, 0].set_title(f"layer {layer + 1}: {int(kept.sum())} tokens")
        counts = [torch.split(x, [h * w for h, w in shapes]) for x in (kept, objects)]
        for level, (chosen, special) in enumerate(zip(kept_maps, object_maps, strict=True)):
            axes[1 + layer, 1 + level].imshow(_highlight(image, chosen, special))
            num_kept, num_objects = (int(x[level].sum()) for x in counts)
            axes[1 + layer, 1 + level].set_title(f"{num_kept} kept, {num_objects} objects")
    for axis in axes.flat:
        axis.set_axis_off()
    figure.tight_layout()
    return figure


def _paint(
    values: Tensor, trace: ImageTrace, height: int, width: int
) -> list[npt.NDArray[np.float32]]:
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


def _highlight(
    image: Picture, kept: npt.NDArray[np.float32], objects: npt.NDArray[np.float32]
) -> npt.NDArray[np.float32]:
    """The image, dark where a token is dropped, tinted where it is kept or an object token."""
    kept_mask, object_mask = kept[..., None] > 0, objects[..., None] > 0
    picture = image.astype(np.float32) / 255
    tinted = 0.55 * picture + 0.45 * np.where(object_mask, OBJECT, KEPT)
    return np.asarray(np.where(kept_mask, tinted, 0.35 * picture), dtype=np.float32)
