"""What all pictures have in common."""

from itertools import pairwise

import numpy as np
import pytest

from lite_focus_detr.visualization import style
from lite_focus_detr.visualization.style import Caption


def noise(height, width):
    return np.random.RandomState(0).randint(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize(("size", "factor"), [((128, 96), 5), ((242, 300), 3), ((640, 480), 1)])
def test_small_images_are_enlarged_by_whole_pixels(size, factor):
    image = noise(*size)
    picture = style.enlarge(image)
    assert picture.shape[:2] == (factor * size[0], factor * size[1])
    for row in range(factor):
        np.testing.assert_array_equal(picture[row::factor, ::factor], image)


def test_contrast_is_that_of_wcag():
    # https://www.w3.org/TR/WCAG22/#dfn-contrast-ratio: 21 for black on white, and #767676 is the
    # lightest grey that has 4.5 on white.
    assert style.contrast((0, 0, 0), (255, 255, 255)) == pytest.approx(21)
    assert style.contrast((0x76,) * 3, (255,) * 3) == pytest.approx(4.54, abs=0.005)


def test_text_can_be_read_on_every_colour_of_a_class():
    colors = [style.class_color(label) for label in range(40)]
    assert all(first != second for first, second in pairwise(colors))
    for color in colors:
        assert style.contrast(style.text_color(color), color) >= 4.5


def test_a_header_has_the_width_of_the_picture_and_leaves_it_as_it_is():
    image = noise(100, 640)
    picture = style.add_header(
        image, Caption("prediction", "of a model"), [("cell 3", (255, 0, 0))]
    )
    assert picture.shape[1:] == (640, 3)
    np.testing.assert_array_equal(picture[-100:], image)
    header = picture[:-100]
    assert (header == [255, 0, 0]).all(-1).any()
    assert (header == 255).all(-1).mean() > 0.8


def test_what_finds_no_room_in_a_legend_is_counted(monkeypatch):
    written = []
    monkeypatch.setattr(
        "PIL.ImageDraw.ImageDraw.text",
        lambda self, place, text, **options: written.append((place[0], text)),
    )
    legend = [(f"class {i} 1", (0, 0, 255)) for i in range(40)]
    style.add_header(noise(10, 640), Caption("prediction", "x" * 500), legend)
    (_, details), (last_place, last) = written[1], written[-1]
    assert details.endswith("…")
    shown = len(written) - 3
    assert last == f"+{40 - shown} more"
    assert last_place + style.font(13).getlength(last) <= 640


@pytest.mark.parametrize("text", ["", "short", "a longer text that is cut"])
def test_a_shortened_text_fits(text):
    font = style.font(13)
    short = style.fit_text(text, 80, font)
    assert font.getlength(short) <= 80
    assert short == text or short.endswith("…")
    assert text.startswith(short.rstrip("…"))


def test_a_mixture_of_colours_lies_between_them():
    assert style.mix("#000000", "#ff8000", 0.5) == "#804000"
    assert style.mix("#102030", "#ff8000", 0) == "#102030"
