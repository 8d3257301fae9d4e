"""Opens every image of a split."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt
from PIL import Image

from ..errors import UnreadableImage
from ..image_file import read_image, size_fault
from ..validation import missing_files
from .findings import Finding, Level
from .splits import Split

T = TypeVar("T")
#: Shows how many of a number of things are done: takes and gives an iterable.
Progress = Callable[[Iterable[T], int], Iterable[T]]
Thumbnail = npt.NDArray[np.float32]  #: (64,) grey values from 0 to 255

#: Tokens of a thumbnail in a row.
_SIDE = 8


class ImageCheck(NamedTuple):
    """What opening an image has shown."""

    unreadable: str | None = None  #: why
    size: str | None = None  #: how its size differs from that of the annotation file
    thumbnail: Thumbnail | None = None


def check_images(
    split: Split, progress: Progress[ImageCheck] = lambda checks, total: checks
) -> tuple[list[Finding], dict[str, Thumbnail]]:
    """Open every image.

    Args:
        split: whose images are opened.
        progress: shows how many are done.

    Returns:
        what is wrong, and a thumbnail of each image that can be read, by its file name.
    """
    images = {split.path(image): image for image in split.dataset["images"]}
    missing = missing_files(images)
    there = [path for path in images if path not in missing]
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # Decoding leaves the interpreter alone.
        found = pool.map(lambda path: _check(path, images[path]), there)
        checks = dict(zip(there, progress(found, len(there)), strict=True))
    findings = list(_findings(split, sorted(missing), checks))
    thumbnails = {
        str(images[path]["file_name"]): check.thumbnail
        for path, check in checks.items()
        if check.thumbnail is not None
    }
    return findings, thumbnails


def _check(path: str, image: Mapping[str, Any]) -> ImageCheck:
    try:
        pixels = read_image(path, "RGB")
        height, width = pixels.shape[:2]
        fault = size_fault(path, image["width"], image["height"], (width, height))
    except UnreadableImage as error:
        return ImageCheck(unreadable=str(error))
    grey = Image.fromarray(pixels).convert("L").resize((_SIDE, _SIDE), Image.Resampling.BOX)
    thumbnail = np.asarray(grey, dtype=np.float32).ravel()
    return ImageCheck(size=None if fault is None else f"{path} {fault}", thumbnail=thumbnail)


def _findings(
    split: Split, missing: Sequence[str], checks: Mapping[str, ImageCheck]
) -> Iterator[Finding]:
    faults = {
        "do not exist": missing,
        "cannot be read": [x.unreadable for x in checks.values() if x.unreadable is not None],
        "have another size than their annotations": [
            x.size for x in checks.values() if x.size is not None
        ],
    }
    for fault, examples in faults.items():
        if examples:
            yield Finding.of(Level.ERROR, "files", f"images of {split.name} {fault}", examples)
