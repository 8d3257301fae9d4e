"""Many annotated images in one picture."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from .style import GAP, INK, PAPER, Caption, Color, Picture, add_header, fit_text, font

#: Pixels of a cell.
CELL = (400, 300)
_LINE = 24


def draw_contact_sheet(
    cells: Sequence[tuple[str, Picture]],
    caption: Caption,
    legend: Sequence[tuple[str, Color]],
    columns: int = 4,
) -> Picture:
    """Put pictures into a grid, each as large as its cell lets it be, with its name below.

    Args:
        cells: names and pictures.
        caption: of the whole.
        legend: names and colours of what is marked.
        columns: of the grid.
    """
    width, height = CELL
    rows = -(-len(cells) // columns)
    size = (columns * (width + GAP) + GAP, rows * (height + _LINE + GAP) + GAP)
    sheet = Image.new("RGB", size, PAPER)
    draw, plain = ImageDraw.Draw(sheet), font(13)
    for index, (name, picture) in enumerate(cells):
        x = GAP + index % columns * (width + GAP)
        y = GAP + index // columns * (height + _LINE + GAP)
        image = Image.fromarray(picture)
        image.thumbnail(CELL, Image.Resampling.LANCZOS)
        sheet.paste(image, (x + (width - image.width) // 2, y + (height - image.height) // 2))
        draw.text((x, y + height + 3), fit_text(name, width, plain), fill=INK, font=plain)
    return add_header(np.asarray(sheet), caption, legend)
