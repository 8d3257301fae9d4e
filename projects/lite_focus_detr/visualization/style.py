"""The look that all pictures share: colours, fonts, captions and legends."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from matplotlib.colors import to_rgb
from matplotlib.font_manager import FontProperties, findfont
from PIL import Image, ImageDraw, ImageFont

Picture = npt.NDArray[np.uint8]  #: (H, W, 3) in RGB order
Color = tuple[int, int, int]

FONT = "DejaVu Sans"
INK = "#1b1f24"
MUTED = "#57606a"
PAPER = "#ffffff"
GAP = 8  #: pixels between parts of a picture
#: Colours of classes: neighbours differ in hue and brightness, also for the colour-blind.
CLASS_COLORS = (
    "#d62f1f",
    "#1268d3",
    "#1b8538",
    "#9a35c4",
    "#e59b00",
    "#0a7f8c",
    "#d0267a",
    "#85552a",
    "#5a57d9",
    "#9cc015",
    "#a51238",
    "#3d6b85",
)
#: Colours of queries and of what belongs to them, on an image that is darkened.
QUERY_COLORS = ("#ffd21f", "#3fd9ff", "#ff6bd6", "#8dff57", "#ff9d3b", "#c9b6ff")
KEPT = "#1a80ff"
OBJECT = "#ff9a00"
DROPPED = "#2b2f36"
HEAT = "viridis"  #: colour map of scores and counts
#: Small images are enlarged until the long side has at least so many pixels.
MIN_PICTURE_SIZE = 640


@dataclass(frozen=True)
class Caption:
    """What a picture says about itself.

    Args:
        title: what it shows, in bold.
        details: of which image, by which model; cut off where there is no room.
    """

    title: str
    details: str = ""


def class_color(label: int) -> Color:
    """Colour of a class, the same in all pictures."""
    return rgb(CLASS_COLORS[label % len(CLASS_COLORS)])


def rgb(color: str) -> Color:
    """A colour as numbers from 0 to 255."""
    red, green, blue = (round(255 * x) for x in to_rgb(color))
    return red, green, blue


def text_color(background: Color) -> Color:
    """White or the dark of the ink, whichever can be read better on a background."""
    return max(rgb(PAPER), rgb(INK), key=lambda color: contrast(color, background))


def contrast(first: Color, second: Color) -> float:
    """Contrast ratio of two colours after WCAG 2, from 1 to 21."""
    dark, bright = sorted((_luminance(first), _luminance(second)))
    return (bright + 0.05) / (dark + 0.05)


def _luminance(color: Color) -> float:
    parts = [x / 255 for x in color]
    linear = [x / 12.92 if x <= 0.04045 else ((x + 0.055) / 1.055) ** 2.4 for x in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@functools.cache
def font(size: int, bold: bool = False) -> ImageFont.FreeTypeFont:
    """The font of all pictures in a size in pixels."""
    properties = FontProperties(family=FONT, weight="bold" if bold else "normal")
    return ImageFont.truetype(findfont(properties), size)


def text_size(picture: Picture) -> int:
    """Pixels of the text on a picture: it grows, but more slowly than the picture."""
    height, width = picture.shape[:2]
    return round(9 + min(width, math.sqrt(height * width)) / 150)


def enlarge(image: Picture) -> Picture:
    """A small image with every pixel repeated a whole number of times: large, and not blurred."""
    factor = max(1, math.ceil(MIN_PICTURE_SIZE / max(image.shape[:2])))
    return np.ascontiguousarray(image.repeat(factor, 0).repeat(factor, 1))


def add_header(
    picture: Picture, caption: Caption, legend: Sequence[tuple[str, Color]] = ()
) -> Picture:
    """Put a caption above a picture, and below it a line of coloured names.

    Args:
        picture: (H, W, 3).
        caption: of one line.
        legend: names and their colours; those for which there is no room are counted.

    Returns:
        a picture of the same width; the line of the legend is there even if it is empty.
    """
    size = text_size(picture)
    line, margin, width = round(1.7 * size), round(0.6 * size), picture.shape[1]
    strip = Image.new("RGB", (width, 2 * line + margin), PAPER)
    draw = ImageDraw.Draw(strip)
    bold, plain = font(size, bold=True), font(size)
    draw.text((margin, margin), caption.title, fill=INK, font=bold)
    start = margin + draw.textlength(caption.title, font=bold) + size
    details = fit_text(caption.details, width - margin - start, plain)
    draw.text((start, margin), details, fill=MUTED, font=plain)
    _draw_legend(draw, (margin, margin + line), width - margin, legend, plain)
    return np.concatenate([np.asarray(strip), picture])


def _draw_legend(
    draw: ImageDraw.ImageDraw,
    place: tuple[float, float],
    end: float,
    legend: Sequence[tuple[str, Color]],
    plain: ImageFont.FreeTypeFont,
) -> None:
    x, y = place
    size = plain.size
    for index, (name, color) in enumerate(legend):
        rest = f"+{len(legend) - index} more"
        needed = draw.textlength(name, font=plain) + 2.2 * size
        is_last = index == len(legend) - 1
        if x + needed + (0 if is_last else draw.textlength(rest, font=plain)) > end:
            draw.text((x, y), rest, fill=MUTED, font=plain)
            return
        top = y + round(0.25 * size)
        draw.rectangle([x, top, x + 0.8 * size, top + 0.8 * size], fill=color)
        draw.text((x + 1.2 * size, y), name, fill=INK, font=plain)
        x += needed


def fit_text(text: str, width: float, plain: ImageFont.FreeTypeFont) -> str:
    """A text that fits into ``width`` pixels; the end of a longer one is left out."""
    if plain.getlength(text) <= width:
        return text
    while text and plain.getlength(f"{text}…") > width:
        text = text[:-1]
    return f"{text.rstrip()}…" if text else ""


def mix(first: str, second: str, share: float) -> str:
    """A colour between two: ``share`` of the second, in [0, 1]."""
    pairs = zip(rgb(first), rgb(second), strict=True)
    red, green, blue = (round((1 - share) * x + share * y) for x, y in pairs)
    return f"#{red:02x}{green:02x}{blue:02x}"


def darken(image: Picture) -> Picture:
    """An image in the background of bright marks."""
    return np.asarray(0.6 * image, dtype=np.uint8)
