"""Reads the image files of a data set."""

from __future__ import annotations

import logging
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import numpy.typing as npt
from detectron2.data import detection_utils
from detectron2.utils.file_io import PathManager
from detectron2.utils.logger import log_first_n
from PIL import ExifTags, Image, ImageOps

from .errors import UnreadableImage

#: What Pillow raises for files that are damaged, that are no images or that would fill the memory.
_DAMAGED = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    LookupError,
    TypeError,
    OverflowError,
    MemoryError,
    RuntimeError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)
#: Images of 16 bits whose values are all below this are those of a camera with 12 bits, or night.
DARK = 2**12
#: Values of the EXIF tag for images that are stored lying on a side.
_TURNED = (5, 6, 7, 8)


def read_image(path: str, image_format: str) -> npt.NDArray[np.uint8]:
    """Read an image, turned upright by its EXIF tag, as (H, W, 3) in "RGB" or "BGR" order.

    Images of 16 bits per channel are divided by 256, those of floats in [0, 1] are multiplied by
    255. Other numbers have no range that is known, and are refused.

    Raises:
        UnreadableImage: the file is missing, truncated, not an image, too large or of numbers
            whose range is not known; names the file.
    """
    with _naming(path), PathManager.open(path, "rb") as file:
        return _convert(Image.open(file), image_format, path)


def convert_image(image: Image.Image, image_format: str) -> npt.NDArray[np.uint8]:
    """The same for an image that Pillow has opened.

    Raises:
        UnreadableImage: its file is damaged, or its numbers have no range that is known.
    """
    name = str(getattr(image, "filename", "")) or "of Pillow"
    with _naming(name):
        return _convert(image, image_format, name)


def _convert(image: Image.Image, image_format: str, path: str) -> npt.NDArray[np.uint8]:
    image = _to_8_bits(ImageOps.exif_transpose(image), path)
    return np.asarray(detection_utils.convert_PIL_to_numpy(image, image_format))


def size_fault(
    path: str, width: float, height: float, size: tuple[int, int] | None = None
) -> str | None:
    """What is wrong with the size of an image file, or None; reads its header only.

    Args:
        path: of the image.
        width: in pixels, as its data set says; the upright image is meant.
        height: likewise.
        size: width and height of the upright image, where it has been read.

    Raises:
        UnreadableImage: as :func:`read_image`.
    """
    with _naming(path), PathManager.open(path, "rb") as file, Image.open(file) as image:
        stored = image.size
        if size is None:
            size = stored[::-1] if _is_turned(image) else stored
    if size == (width, height):
        return None
    fault = f"is {size[0]} x {size[1]} pixels, but its data set says {width} x {height}"
    if size != stored == (width, height):
        return (
            f"{fault}: its EXIF tag turns it; remove the tag if the boxes are those of the stored "
            "pixels, else correct the size"
        )
    if size == (height, width):
        return f"{fault}: width and height are swapped, or its EXIF tag is lost"
    return f"{fault}; correct the size, or put back the image that was annotated"


def _is_turned(image: Image.Image) -> bool:
    # Pillow would read all of a PNG file to find a tag behind its pixels.
    has_tags = image.format != "PNG" or "exif" in image.info
    return has_tags and image.getexif().get(ExifTags.Base.Orientation) in _TURNED


@contextmanager
def _naming(path: str) -> Iterator[None]:
    try:
        yield
    except _DAMAGED as error:
        reason = str(error).replace("\n", " ") or type(error).__name__
        raise UnreadableImage(f"cannot read image {path}: {reason}") from error


def _to_8_bits(image: Image.Image, path: str) -> Image.Image:
    """The image, without the clipping of values above 255 to white that Pillow does."""
    if not image.mode.startswith(("I", "F")):
        return image
    values = np.asarray(image)
    low, high = values.min(), values.max()
    if image.mode.startswith("I;16"):
        _report_16_bits(path, int(high))
        values = values // 256
    elif image.mode == "F" and 0 <= low <= high <= 1:
        values = np.rint(values * 255)
    elif image.mode == "F" or not 0 <= low <= high <= 255:
        raise ValueError(
            f"its values of 32 bits lie in [{low:g}, {high:g}], and what is black and white in "
            "them is not known; save it with 8 or 16 bits per channel"
        )
    return Image.fromarray(values.astype(np.uint8))


def _report_16_bits(path: str, high: int) -> None:
    """Say once per process what is done, and once if nothing would be seen."""
    done = f"Images of 16 bits per channel are divided by 256; the first is {path}"
    log_first_n(logging.WARNING, done, name=__name__)
    if high < DARK:
        dark = (
            f"The brightest value of {path} is {high} of 65535, which becomes {high // 256} of "
            "255; if these images use fewer bits than 16, stretch them to the whole range"
        )
        log_first_n(logging.WARNING, dark, name=__name__)
