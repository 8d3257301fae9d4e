"""A picture of what a training step has seen, found and kept."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from detectron2.structures import Boxes
from torch import Tensor
from torchvision.utils import draw_bounding_boxes

from .structures import SpatialShapes, TokenSelection
from .tokens import level_maps

#: Brightness of places of which no layer has kept a token.
DARK = 0.2


def draw_training(image: Tensor, boxes: Sequence[Boxes], kept: Tensor | None = None) -> Tensor:
    """An image with each of several sets of boxes, and with the tokens that were kept of it.

    Args:
        image: (3, H, W) uint8 RGB.
        boxes: to draw, in pixels of the image.
        kept: (H, W) how often a token at each pixel was kept; None: there is no such panel.

    Returns:
        uint8: the panels of (3, H, W) side by side. The more often a token was kept, the brighter
        is its place.
    """
    panels = [
        draw_bounding_boxes(image, x.tensor.cpu(), colors="lime") if len(x) else image
        for x in boxes
    ]
    if kept is not None:
        brightness = DARK + (1 - DARK) * kept / kept.max().clamp(min=1)
        panels.append((image * brightness).to(torch.uint8))
    return torch.cat(panels, 2)


def count_kept(
    layers: Sequence[TokenSelection], shapes: SpatialShapes, size: tuple[int, int]
) -> Tensor:
    """How many tokens the layers of an encoder have kept at each pixel of their first image.

    Args:
        layers: tokens that each has kept.
        shapes: of the levels.
        size: (height, width) of the padded images.

    Returns:
        (H, W) on the CPU: the sum over layers and levels.
    """
    counts = torch.zeros(1, sum(height * width for height, width in shapes), 1)
    for selection in layers:
        counts[0, selection.of_image(0).cpu()] += 1
    maps = level_maps(counts, shapes)
    return torch.cat([F.interpolate(x, size) for x in maps]).sum((0, 1))
