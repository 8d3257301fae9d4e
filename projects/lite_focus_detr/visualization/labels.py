"""Places for the labels of boxes: none covers a better one."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Boxes = npt.NDArray[np.float64]  #: (N, 4) left, top, right, bottom

# A label inside its box covers the object: only where it is a small part of it.
MAX_SHARE_INSIDE = 0.12
# Labels that cover more of a picture are too many.
MAX_LABELLED_SHARE = 0.1
# What a place costs for each place that would be better by its position alone, in areas of a
#: label: a little more cover of another box is preferred to a far corner.
_RANK_COST = 0.04


def place_labels(
    boxes: Boxes, sizes: Sequence[tuple[float, float]], image_size: tuple[int, int]
) -> list[tuple[float, float] | None]:
    """Find a place at its box for each label.

    Labels take places in the given order, and know nothing of those that follow: the places of the
    first labels are the same however many there are.

    Args:
        boxes: (N, 4) in pixels, best first.
        sizes: (width, height) of the N labels.
        image_size: (height, width).

    Returns:
        left and top of each label, inside of the image; None where all places at the box are
        covered by better labels.
    """
    placed = np.empty((0, 4))
    places: list[tuple[float, float] | None] = []
    for index, (box, size) in enumerate(zip(boxes, sizes, strict=True)):
        label = _best_place(_candidates(box, size, image_size), placed, boxes[:index])
        places.append(None if label is None else (float(label[0]), float(label[1])))
        if label is not None:
            placed = np.concatenate([placed, label[None]])
    return places


def fit_picture(
    places: Sequence[tuple[float, float] | None],
    sizes: Sequence[tuple[float, float]],
    image_size: tuple[int, int],
) -> bool:
    """Whether all labels have found a place, and leave enough of the picture to be seen."""
    area = sum(width * height for width, height in sizes)
    return None not in places and area <= MAX_LABELLED_SHARE * image_size[0] * image_size[1]


def _candidates(box: Boxes, size: tuple[float, float], image_size: tuple[int, int]) -> Boxes:
    """Places (N, 4) for a label, best first."""
    left, top, right, bottom = box
    width, height = size
    image_height, image_width = image_size
    furthest = max(0.0, image_width - width)
    # Above and below a box that is cut off by the image, a label moves along the box.
    corners = [
        (min(max(x, 0.0), furthest), y)
        for x, y in (
            (left, top - height),
            (left, bottom),
            (right - width, top - height),
            (right - width, bottom),
        )
    ]
    corners += [
        (right, top),
        (left - width, top),
        (right, bottom - height),
        (left - width, bottom - height),
    ]
    if width * height <= MAX_SHARE_INSIDE * max(0.0, (right - left) * (bottom - top)):
        inside = [(left, top), (right - width, top), (left, bottom - height)]
        corners += [(max(x, 0.0), max(y, 0.0)) for x, y in inside]
    places = np.array([(x, y, x + width, y + height) for x, y in corners])
    fits = (places[:, :2] >= 0).all(1) & (places[:, 2] <= image_width)
    return np.asarray(places[fits & (places[:, 3] <= image_height)])


def _best_place(candidates: Boxes, labels: Boxes, better: Boxes) -> Boxes | None:
    """Of the candidates that cover no label, the one that covers least of better boxes."""
    free = [i for i, x in enumerate(candidates) if not _overlaps(x, labels).any()]
    if not free:
        return None
    costs = []
    for index in free:
        place = candidates[index]
        area = (place[2] - place[0]) * (place[3] - place[1])
        covered = _overlaps(place, better).sum() / area
        costs.append(covered + _RANK_COST * index)
    return np.asarray(candidates[free[int(np.argmin(costs))]])


def _overlaps(place: Boxes, others: Boxes) -> Boxes:
    """Areas (N,) that a place (4,) shares with others (N, 4)."""
    sides = np.minimum(place[2:], others[:, 2:]) - np.maximum(place[:2], others[:, :2])
    return np.asarray(sides.clip(min=0).prod(-1))
