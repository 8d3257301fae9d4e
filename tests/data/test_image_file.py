"""Images of all kinds, and their sizes."""

import logging
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from lite_focus_detr.data import UnreadableImage, read_image
from lite_focus_detr.data.image_file import size_fault


@pytest.fixture
def save(tmp_path):
    """Write an array as ``a.tif``; returns the path."""

    def save(values):
        Image.fromarray(values).save(tmp_path / "a.tif")
        return str(tmp_path / "a.tif")

    return save


@pytest.mark.fault(area="images", expected="survived")
@pytest.mark.parametrize("values", [np.linspace(0, 1, 256), np.full(256, 0.5)])
def test_floats_from_0_to_1_are_the_whole_range(save, values):
    path = save(values.astype(np.float32).reshape(16, 16))
    image = read_image(path, "RGB")
    assert image.shape == (16, 16, 3)
    np.testing.assert_allclose(image[..., 1].ravel() / 255, values, atol=0.5001 / 255)


@pytest.mark.fault(area="images", expected="survived")
def test_32_bits_that_hold_8_are_kept(save):
    path = save(np.arange(256, dtype=np.int32).reshape(16, 16))
    np.testing.assert_array_equal(read_image(path, "BGR")[..., 2].ravel(), np.arange(256))


@pytest.mark.fault(area="images", expected="refused")
@pytest.mark.parametrize(
    ("values", "span"),
    [
        (np.array([[0, 2**31 - 1]], np.int32), r"\[0, 2.14748e\+09\]"),
        (np.array([[-1, 255]], np.int32), r"\[-1, 255\]"),
        (np.array([[0, 65535]], np.int32), r"\[0, 65535\]"),
        (np.array([[0, 255]], np.float32), r"\[0, 255\]"),
        (np.array([[-0.5, 0.5]], np.float32), r"\[-0.5, 0.5\]"),
        (np.array([[0, np.nan]], np.float32), r"\[nan, nan\]"),
        (np.array([[0, np.inf]], np.float32), r"\[0, inf\]"),
    ],
)
def test_numbers_of_unknown_range_are_refused(save, values, span):
    with pytest.raises(UnreadableImage, match=rf"a\.tif: its values of 32 bits lie in {span}, .*8"):
        read_image(save(values), "RGB")


@pytest.mark.fault(area="images", expected="repaired")
def test_what_is_done_to_16_bits_is_said_once_and_that_12_of_them_are_dark(
    save, caplog, monkeypatch
):
    monkeypatch.setattr(logging.getLogger("lite_focus_detr"), "propagate", True)
    monkeypatch.setattr("detectron2.utils.logger._LOG_COUNTER", Counter())
    assert (read_image(save(np.full((4, 4), 4096, np.uint16)), "RGB") == 16).all()
    for _ in range(3):
        assert (read_image(save(np.full((4, 4), 4095, np.uint16)), "RGB") == 15).all()
    messages = list(dict.fromkeys(record.getMessage() for record in caplog.records))
    assert len(messages) == 2
    assert "16 bits per channel are divided by 256" in messages[0]
    assert "a.tif is 4095 of 65535, which becomes 15 of 255" in messages[1]


@pytest.mark.fault(area="images", expected="survived")
@pytest.mark.parametrize("mode", ["I;16", "I;16B"])
def test_the_order_of_two_bytes_does_not_matter(tmp_path, mode):
    values = np.linspace(0, 65535, 256).astype("<u2" if mode == "I;16" else ">u2")
    image = Image.frombytes(mode, (16, 16), values.tobytes())
    image.save(tmp_path / "a.tif")
    np.testing.assert_array_equal(
        read_image(str(tmp_path / "a.tif"), "RGB")[..., 0].ravel(), range(256)
    )


@pytest.mark.fault(area="images", expected="refused")
def test_an_image_that_would_fill_the_memory_is_refused_by_name(tmp_path, monkeypatch):
    Image.new("1", (64, 64)).save(tmp_path / "bomb.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    for read in (lambda path: read_image(path, "RGB"), lambda path: size_fault(path, 64, 64)):
        with pytest.raises(UnreadableImage, match=r"cannot read image .*bomb\.png: .*bomb"):
            read(str(tmp_path / "bomb.png"))


@pytest.fixture
def photograph(tmp_path):
    """An image of 6 x 4 stored pixels, turned by its EXIF tag or not."""

    def photograph(orientation):
        exif = Image.Exif()
        exif[0x0112] = orientation
        Image.new("RGB", (6, 4)).save(tmp_path / "a.jpg", exif=exif)
        return str(tmp_path / "a.jpg")

    return photograph


@pytest.mark.parametrize(
    ("orientation", "size"), [(1, (6, 4)), (3, (6, 4)), (6, (4, 6)), (8, (4, 6))]
)
def test_the_size_is_that_of_the_upright_image(photograph, orientation, size):
    path = photograph(orientation)
    assert read_image(path, "RGB").shape[1::-1] == size
    assert size_fault(path, *size) is None


@pytest.mark.parametrize(
    ("orientation", "size", "reason"),
    [
        (6, (6, 4), "is 4 x 6 pixels, but its data set says 6 x 4: its EXIF tag turns it"),
        (1, (4, 6), "is 6 x 4 pixels, but its data set says 4 x 6: width and height are swapped"),
        (1, (12, 8), "is 6 x 4 pixels, but its data set says 12 x 8; correct the size"),
    ],
)
def test_another_size_is_explained(photograph, orientation, size, reason):
    assert reason in size_fault(photograph(orientation), *size)
