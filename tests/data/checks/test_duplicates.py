import io

import numpy as np
import pytest
from PIL import Image, ImageFilter

from lite_focus_detr.data.checks import duplicates
from lite_focus_detr.data.checks.duplicates import find_near_duplicates, near_duplicates


def thumbnail(image):
    grey = image.convert("L").resize((8, 8), Image.Resampling.BOX)
    return np.asarray(grey, dtype=np.float32).ravel()


def photograph(seed):
    random = np.random.default_rng(seed)
    noise = Image.fromarray(random.integers(0, 256, (60, 80, 3), dtype=np.uint8))
    return noise.filter(ImageFilter.GaussianBlur(6)).resize((320, 240))


def compressed(image):
    file = io.BytesIO()
    image.resize((200, 150)).save(file, "JPEG", quality=60)
    return Image.open(file)


def test_a_compressed_and_resized_copy_is_found_and_nothing_else():
    first = {f"a{i}": thumbnail(photograph(i)) for i in range(30)}
    second = {f"b{i}": thumbnail(photograph(100 + i)) for i in range(30)}
    assert list(near_duplicates(first, second)) == []
    second["copy"] = thumbnail(compressed(photograph(7)))
    assert list(near_duplicates(first, second)) == [("a7", "copy")]


def test_distances_are_those_of_all_pairs(monkeypatch):
    monkeypatch.setattr(duplicates, "CHUNK", 3)
    random = np.random.default_rng(1)
    first = {str(i): random.uniform(0, 255, 64).astype(np.float32) for i in range(9)}
    second = {
        f"copy of {i}": first[str(i)] + np.float32(shift)
        for i, shift in ((0, 2.9), (3, -2.9), (5, 3.2), (8, 0))
    }
    found = list(near_duplicates(first, second))
    assert found == [("0", "copy of 0"), ("3", "copy of 3"), ("8", "copy of 8")]


@pytest.mark.parametrize("contrast", [0.0, 4.0])
def test_pale_images_are_not_all_the_same(contrast):
    random = np.random.default_rng(2)
    pale = [200 + contrast * random.standard_normal(64).astype(np.float32) for _ in range(2)]
    assert list(near_duplicates({"a": pale[0]}, {"b": pale[1]})) == []


def test_every_pair_of_splits_is_compared():
    one, two = (thumbnail(photograph(i)) for i in range(2))
    findings = list(
        find_near_duplicates({"train": {"a": one}, "val": {"b": two}, "test": {"c": one}})
    )
    (finding,) = findings
    assert finding.text == "images of test nearly the same as one of train"
    assert (finding.count, finding.examples) == (1, ("c and a",))
    assert list(find_near_duplicates({"train": {}, "val": {"b": two}})) == []
