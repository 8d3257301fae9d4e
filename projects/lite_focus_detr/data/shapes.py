"""A generated data set in COCO format: coloured shapes on textured backgrounds.

It trains a detector within minutes and without a download. Every image is a pure function of its
split, number, size and of the seed.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import tempfile
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

CLASS_NAMES = ("rectangle", "ellipse", "triangle")

MAX_SHAPES = 6
# Side of the square around a shape, relative to the image.
SIZE_RANGE = (0.12, 0.45)
# Largest part of the smaller of two boxes that the other may cover.
MAX_OVERLAP = 0.3
# Least distance of a colour from the mean of the background, of at most 441.
MIN_CONTRAST = 110.0
PLACEMENT_ATTEMPTS = 20

SPLITS = ("train", "val")

Box = tuple[int, int, int, int]
Picture = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class ShapesSpec:
    """What a generated data set depends on.

    Args:
        split: "train" or "val"; their images differ.
        num_images: at least 1.
        image_size: height and width in pixels.
        seed: not negative.
    """

    split: str
    num_images: int
    image_size: int
    seed: int

    def json_file(self, root: str) -> str:
        """Path of the annotation file."""
        return os.path.join(self._folder(root), "instances.json")

    def image_root(self, root: str) -> str:
        """Folder of the images."""
        return os.path.join(self._folder(root), "images")

    def _folder(self, root: str) -> str:
        return os.path.join(
            root, f"{self.split}_{self.num_images}x{self.image_size}px_seed{self.seed}"
        )


class ShapesImage(NamedTuple):
    """An image (H, W, 3) in RGB order with its shapes.

    ``boxes`` are (left, top, right, bottom) in pixels, the last two exclusive; ``areas`` are the
    pixels of the whole shapes, ``classes`` indices of ``CLASS_NAMES``.
    """

    image: Picture
    boxes: list[Box]
    areas: list[int]
    classes: list[int]


def draw_dataset(root: str, spec: ShapesSpec) -> None:
    """Write images and annotations below ``root`` unless they are there.

    The folder appears under its name only when it is complete, so that processes that start
    together, or are killed, leave nothing half-written.
    """
    folder = os.path.dirname(spec.json_file(root))
    if os.path.isdir(folder):
        return
    os.makedirs(root, exist_ok=True)
    draft = tempfile.mkdtemp(dir=root, prefix=".draft_")
    try:
        _write_dataset(draft, spec)
        os.chmod(draft, 0o755)
        os.rename(draft, folder)
    except OSError:
        # Another process may have been faster: its content is the same.
        if not os.path.isdir(folder):
            raise
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def draw_image(spec: ShapesSpec, index: int) -> ShapesImage:
    """Draw image number ``index`` of a data set."""
    rng = np.random.default_rng([spec.seed, SPLITS.index(spec.split), spec.image_size, index])
    image = _background(rng, spec.image_size)
    drawn = ShapesImage(image, [], [], [])
    background = image.mean(axis=(0, 1))
    for _ in range(int(rng.integers(1, MAX_SHAPES + 1))):
        label = int(rng.integers(len(CLASS_NAMES)))
        mask = _place(rng, label, spec.image_size, drawn.boxes)
        if mask is None:
            continue
        inside = np.asarray(mask, dtype=bool)
        shading = rng.normal(0.0, 6.0, (int(inside.sum()), 3))
        image[inside] = np.clip(_contrasting(rng, background) + shading, 0, 255).astype(np.uint8)
        drawn.boxes.append(_bounding_box(mask))
        drawn.areas.append(int(inside.sum()))
        drawn.classes.append(label)
    return drawn


def _write_dataset(folder: str, spec: ShapesSpec) -> None:
    image_root = os.path.join(folder, "images")
    os.mkdir(image_root)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for index in range(spec.num_images):
        drawn = draw_image(spec, index)
        file_name = f"{index:06d}.png"
        Image.fromarray(drawn.image).save(os.path.join(image_root, file_name), compress_level=1)
        size = {"height": spec.image_size, "width": spec.image_size}
        images.append({"id": index + 1, "file_name": file_name, **size})
        for (left, top, right, bottom), area, label in zip(
            drawn.boxes, drawn.areas, drawn.classes, strict=True
        ):
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": index + 1,
                    "category_id": label + 1,
                    "bbox": [left, top, right - left, bottom - top],
                    "area": area,
                    "iscrowd": 0,
                }
            )
    categories = [{"id": label + 1, "name": name} for label, name in enumerate(CLASS_NAMES)]
    content = {"info": {}, "images": images, "annotations": annotations, "categories": categories}
    with open(os.path.join(folder, "instances.json"), "w") as file:
        json.dump(content, file)


def _background(rng: np.random.Generator, size: int) -> Picture:
    """Random colour with smooth variation and fine grain, (size, size, 3)."""
    colour = rng.uniform(40, 215, 3)
    coarse = rng.uniform(-1.0, 1.0, (6, 6, 3))
    smooth = [
        Image.fromarray(channel.astype(np.float32)).resize((size, size), Image.Resampling.BICUBIC)
        for channel in np.moveaxis(coarse, -1, 0)
    ]
    texture = 30.0 * np.stack([np.asarray(channel) for channel in smooth], axis=-1)
    grain = rng.normal(0.0, 8.0, (size, size, 3))
    return np.clip(colour + texture + grain, 0, 255).astype(np.uint8)


def _contrasting(rng: np.random.Generator, background: npt.NDArray[Any]) -> npt.NDArray[Any]:
    while True:
        colour = rng.uniform(0, 255, 3)
        if np.linalg.norm(colour - background) >= MIN_CONTRAST:
            return colour


def _place(rng: np.random.Generator, label: int, size: int, boxes: list[Box]) -> Image.Image | None:
    """Mask of a shape that hides none of the others, or None if there is no room."""
    for _ in range(PLACEMENT_ATTEMPTS):
        mask = Image.new("1", (size, size))
        _draw_shape(rng, ImageDraw.Draw(mask), label, size)
        if mask.getbbox() is None:
            continue
        if all(_overlap(_bounding_box(mask), box) <= MAX_OVERLAP for box in boxes):
            return mask
    return None


def _draw_shape(rng: np.random.Generator, draw: ImageDraw.ImageDraw, label: int, size: int) -> None:
    side = size * rng.uniform(*SIZE_RANGE)
    aspect = math.sqrt(rng.uniform(0.6, 1.0 / 0.6))
    half_w, half_h = 0.5 * side * min(aspect, 1.0), 0.5 * side / max(aspect, 1.0)
    x, y = rng.uniform(0.5 * side, size - 0.5 * side, 2)
    if CLASS_NAMES[label] == "triangle":
        turn = rng.uniform(0.0, 2.0 * math.pi)
        angles = [turn + 2.0 * math.pi * corner / 3.0 for corner in range(3)]
        draw.polygon([(x + half_w * math.cos(a), y + half_h * math.sin(a)) for a in angles], fill=1)
        return
    outline = (x - half_w, y - half_h, x + half_w, y + half_h)
    if CLASS_NAMES[label] == "rectangle":
        draw.rectangle(outline, fill=1)
    else:
        draw.ellipse(outline, fill=1)


def _bounding_box(mask: Image.Image) -> Box:
    box = mask.getbbox()
    assert box is not None
    return box


def _overlap(a: Box, b: Box) -> float:
    """Intersection of two boxes relative to the smaller one, in [0, 1]."""
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    smaller = min((box[2] - box[0]) * (box[3] - box[1]) for box in (a, b))
    return max(width, 0) * max(height, 0) / smaller
