"""Pictures of ground truth and predictions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from detectron2.structures import BoxMode, Instances
from PIL import Image, ImageDraw

from .labels import Boxes, fit_picture, place_labels
from .style import (
    GAP,
    Caption,
    Color,
    Picture,
    add_header,
    class_color,
    enlarge,
    font,
    text_color,
    text_size,
)

#: Size of the text of short labels, which there are many of.
SHORT_LABEL_SCALE = 0.7
_SHADOW = (0, 0, 0, 120)


class Marks(NamedTuple):
    """Boxes to draw on a picture, best first."""

    boxes: Boxes  #: (N, 4) in pixels of the picture
    classes: list[int]
    labels: list[str]
    short_labels: list[str]  #: where there are many objects


def draw_predictions(
    image: Picture, instances: Instances, metadata: Any, caption: Caption | None = None
) -> Picture:
    """Draw the output of a detector.

    Args:
        image: (H, W, 3) in RGB order.
        instances: with ``pred_boxes`` in pixels of ``image``, ``scores`` and ``pred_classes``.
        metadata: of the data set; without ``thing_classes`` the labels are numbers.
        caption: written above, with the classes that were found; None: the image alone.

    Returns:
        an image in RGB order, enlarged if ``image`` is small. Where there are many objects, lines
        are thin and labels are scores in per cent; one that would cover a better one is left out.
    """
    order = instances.scores.argsort(descending=True, stable=True)
    classes, scores = (x[order].tolist() for x in (instances.pred_classes, instances.scores))
    labels = [
        f"{class_name(label, metadata)} {score:.0%}"
        for label, score in zip(classes, scores, strict=True)
    ]
    short = [f"{100 * score:.0f}" for score in scores]
    boxes = instances.pred_boxes.tensor[order].numpy().astype(float)
    return _draw(image, Marks(boxes, classes, labels, short), metadata, caption)


def draw_ground_truth(
    image: Picture,
    record: dict[str, Any],
    metadata: Any,
    caption: Caption | None = None,
    *,
    labels: bool = True,
) -> Picture:
    """Draw the annotations of a record in detectron2's format.

    Args:
        image: (H, W, 3) in RGB order.
        record: with ``annotations``.
        metadata: see :func:`draw_predictions`.
        caption: see :func:`draw_predictions`.
        labels: write the names of the classes at the boxes, unless there are many objects.
    """
    annotations = record["annotations"]
    boxes = [
        BoxMode.convert(annotation["bbox"], annotation["bbox_mode"], BoxMode.XYXY_ABS)
        for annotation in annotations
    ]
    classes = [annotation["category_id"] for annotation in annotations]
    names = [class_name(label, metadata) if labels else "" for label in classes]
    marks = Marks(np.array(boxes, float).reshape(-1, 4), classes, names, [""] * len(names))
    return _draw(image, marks, metadata, caption)


def keep_best(instances: Instances, threshold: float = 0.0, count: int | None = None) -> Instances:
    """The ``count`` best of those detections that have at least the score ``threshold``."""
    instances = instances[instances.scores >= threshold]
    order = instances.scores.argsort(descending=True, stable=True)
    return instances[order[:count]]


def describe_detections(instances: Instances, threshold: float) -> str:
    """How many detections have at least a score, and where none has, what the best one has."""
    count = int((instances.scores >= threshold).sum())
    if count or not len(instances):
        return f"{count or 'no'} object{'s' * (count != 1)}, at least {threshold:.0%}"
    return f"no object of at least {threshold:.0%}, the best has {instances.scores.max():.0%}"


def side_by_side(left: Picture, right: Picture) -> Picture:
    """Put two images (H, W, 3) of one height beside each other, with a white gap."""
    gap = np.full((left.shape[0], GAP, 3), 255, dtype=np.uint8)
    return np.concatenate([left, gap, right], axis=1)


def class_legend(classes: Sequence[int], metadata: Any) -> list[tuple[str, Color]]:
    """Names with counts and colours of the classes of some objects, the most frequent first."""
    return [
        (f"{class_name(label, metadata)} {count}", class_color(label))
        for label, count in Counter(sorted(classes)).most_common()
    ]


def class_name(label: int, metadata: Any) -> str:
    """Name of a class; its number where the data set has no names."""
    names = metadata.get("thing_classes")
    return str(label) if names is None else str(names[label])


def _draw(image: Picture, marks: Marks, metadata: Any, caption: Caption | None) -> Picture:
    canvas = enlarge(image)
    marks = marks._replace(boxes=marks.boxes * (canvas.shape[0] / image.shape[0]))
    if marks.classes:
        canvas = _draw_marks(canvas, marks)
    if caption is None:
        return canvas
    return add_header(canvas, caption, class_legend(marks.classes, metadata))


def _draw_marks(canvas: Picture, marks: Marks) -> Picture:
    size = text_size(canvas)
    places, labels = _place(marks.labels, marks.boxes, canvas, size), marks.labels
    sizes = [label_size(label, size) for label in labels]
    width, is_dense = text_size(canvas) // 5, not fit_picture(places, sizes, canvas.shape[:2])
    if is_dense:
        width, size = max(1, width // 2), max(10, round(SHORT_LABEL_SCALE * size))
        places, labels = _place(marks.short_labels, marks.boxes, canvas, size), marks.short_labels
    picture = Image.fromarray(canvas)
    draw = ImageDraw.Draw(picture, "RGBA")
    # The better a detection, the later it is drawn.
    for index in reversed(range(len(labels))):
        _draw_box(draw, marks.boxes[index], class_color(marks.classes[index]), width, not is_dense)
    for label, place, index in zip(labels, places, marks.classes, strict=True):
        if label and place is not None:
            _draw_label(draw, label, place, class_color(index), size)
    return np.asarray(picture)


def _place(
    labels: Sequence[str], boxes: Boxes, canvas: Picture, size: int
) -> list[tuple[float, float] | None]:
    return place_labels(boxes, [label_size(x, size) for x in labels], canvas.shape[:2])


def label_size(label: str, size: float) -> tuple[float, float]:
    """Width and height of a label with text of ``size`` pixels."""
    return font(100).getlength(label) * size / 100 + 0.6 * size, 1.35 * size


def _draw_box(
    draw: ImageDraw.ImageDraw, box: Boxes, color: Color, width: int, has_edge: bool
) -> None:
    left, top, right, bottom = (round(x) for x in box)
    right, bottom = max(left, right), max(top, bottom)
    if has_edge:  # It shows the line on an image of its own colour.
        draw.rectangle([left - 1, top - 1, right + 1, bottom + 1], outline=_SHADOW, width=1)
    draw.rectangle([left, top, right, bottom], outline=color, width=width)


def _draw_label(
    draw: ImageDraw.ImageDraw, label: str, place: tuple[float, float], color: Color, size: int
) -> None:
    left, top = place
    width, height = label_size(label, size)
    draw.rectangle([left, top, left + width - 1, top + height - 1], fill=color)
    middle = (left + width / 2, top + height / 2)
    draw.text(middle, label, fill=text_color(color), font=font(size), anchor="mm")
