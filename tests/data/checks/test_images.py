import numpy as np
import pytest
from PIL import ExifTags, Image

from lite_focus_detr.data.checks import Level
from lite_focus_detr.data.checks.images import check_images


@pytest.fixture
def split(make_split, tmp_path):
    """Five images: good, missing, truncated, of another size, turned by its tag."""
    split, _ = make_split("train", [[(0, (1, 1, 5, 5))]] * 5)
    random = np.random.default_rng(0)
    good = Image.fromarray(random.integers(0, 256, (80, 100, 3), dtype=np.uint8))
    good.save(tmp_path / "train1.png")
    good.save(tmp_path / "train3.png")
    content = (tmp_path / "train3.png").read_bytes()
    (tmp_path / "train3.png").write_bytes(content[: len(content) // 2])
    good.resize((50, 40)).save(tmp_path / "train4.png")
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    good.save(tmp_path / "train5.png", exif=exif)
    return split


def test_every_fault_is_named_with_its_cause(split):
    findings, thumbnails = check_images(split)
    found = {finding.text: finding for finding in findings}
    assert {finding.level for finding in findings} == {Level.ERROR}
    missing = found.pop("images of train do not exist")
    assert [path.rpartition("/")[2] for path in missing.examples] == ["train2.png"]
    unreadable = found.pop("images of train cannot be read")
    assert unreadable.count == 1
    assert "train3.png" in unreadable.examples[0]
    (sizes,) = found.values()
    first, second = sizes.examples
    assert "train4.png is 50 x 40 pixels, but its data set says 100 x 80" in first
    assert "train5.png is 80 x 100 pixels" in second
    assert "its EXIF tag turns it" in second
    assert sorted(thumbnails) == ["train1.png", "train4.png", "train5.png"]


def test_a_thumbnail_has_the_mean_grey_of_each_field(make_split, tmp_path):
    split, _ = make_split("val", [[]])
    pixels = np.zeros((80, 100, 3), np.uint8)
    pixels[:40, :, :] = 200
    Image.fromarray(pixels).save(tmp_path / "val1.png")
    _, thumbnails = check_images(split)
    np.testing.assert_array_equal(thumbnails["val1.png"].reshape(8, 8)[:, 0], [200] * 4 + [0] * 4)


def test_progress_is_shown_for_the_images_that_are_there(split):
    seen = []

    def progress(checks, total):
        seen.append(total)
        yield from checks

    check_images(split, progress)
    assert seen == [4]
