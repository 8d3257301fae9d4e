"""The generated data set."""

import json
import threading

import numpy as np
import pytest
from PIL import Image

from lite_focus_detr.data import shapes
from lite_focus_detr.data.shapes import ShapesSpec, draw_dataset, draw_image

SPEC = ShapesSpec("train", 4, 64, 0)


def read(root, spec):
    with open(spec.json_file(str(root))) as file:
        return json.load(file)


def test_an_image_depends_on_its_specification_only():
    np.random.seed(1)
    first = draw_image(SPEC, 2)
    np.random.seed(2)
    second = draw_image(SPEC, 2)
    np.testing.assert_array_equal(first.image, second.image)
    assert first.boxes == second.boxes


@pytest.mark.parametrize(
    ("spec", "index"),
    [(ShapesSpec("val", 4, 64, 0), 2), (ShapesSpec("train", 4, 64, 1), 2), (SPEC, 3)],
)
def test_split_seed_and_number_change_the_image(spec, index):
    assert (draw_image(spec, index).image != draw_image(SPEC, 2).image).any()


def test_a_box_is_tight_around_its_shape():
    spec = ShapesSpec("val", 1, 128, 3)
    checked = 0
    for index in range(60):
        drawn = draw_image(spec, index)
        if len(drawn.boxes) != 1:
            continue
        left, top, right, bottom = drawn.boxes[0]
        # A shape is nearly uniform, the background is not its colour: the centre is inside.
        colour = drawn.image[(top + bottom) // 2, (left + right) // 2].astype(float)
        near = np.linalg.norm(drawn.image - colour, axis=-1) < 50
        rows, columns = np.flatnonzero(near.any(1)), np.flatnonzero(near.any(0))
        assert (rows[0], rows[-1] + 1) == pytest.approx((top, bottom), abs=1)
        assert (columns[0], columns[-1] + 1) == pytest.approx((left, right), abs=1)
        checked += 1
    assert checked >= 5


def test_shapes_stay_inside_and_hide_each_other_little():
    for index in range(40):
        drawn = draw_image(ShapesSpec("train", 1, 96, 0), index)
        boxes = np.array(drawn.boxes)
        assert 1 <= len(boxes) <= 6
        assert (boxes[:, :2] >= 0).all()
        assert (boxes[:, 2:] <= 96).all()
        sizes = (boxes[:, 2:] - boxes[:, :2]).prod(1)
        for i in range(len(boxes)):
            for j in range(i):
                low = np.maximum(boxes[i, :2], boxes[j, :2])
                high = np.minimum(boxes[i, 2:], boxes[j, 2:])
                common = np.clip(high - low, 0, None).prod()
                assert common <= 0.3 * min(sizes[i], sizes[j])


def test_areas_are_those_of_the_classes():
    fill = {0: [], 1: [], 2: []}
    for index in range(150):
        drawn = draw_image(ShapesSpec("train", 1, 256, 0), index)
        for (left, top, right, bottom), area, label in zip(
            drawn.boxes, drawn.areas, drawn.classes, strict=True
        ):
            fill[label].append(area / ((right - left) * (bottom - top)))
    assert np.allclose(fill[0], 1.0)
    assert np.mean(fill[1]) == pytest.approx(np.pi / 4, abs=0.02)
    assert 0.3 < min(fill[2]) <= max(fill[2]) < 0.6


def test_the_files_are_in_coco_format(tmp_path):
    draw_dataset(str(tmp_path), SPEC)
    content = read(tmp_path, SPEC)
    assert [category["name"] for category in content["categories"]] == list(shapes.CLASS_NAMES)
    assert len(content["images"]) == 4
    for image in content["images"]:
        drawn = draw_image(SPEC, image["id"] - 1)
        with Image.open(f"{SPEC.image_root(str(tmp_path))}/{image['file_name']}") as file:
            np.testing.assert_array_equal(np.asarray(file), drawn.image)
        annotations = [a for a in content["annotations"] if a["image_id"] == image["id"]]
        assert [a["category_id"] - 1 for a in annotations] == drawn.classes
        x, y, w, h = np.array([a["bbox"] for a in annotations]).T
        np.testing.assert_array_equal(np.stack([x, y, x + w, y + h], 1), drawn.boxes)


def test_files_are_written_once(tmp_path, monkeypatch):
    draw_dataset(str(tmp_path), SPEC)
    monkeypatch.setattr(shapes, "draw_image", lambda *_: pytest.fail("drawn again"))
    draw_dataset(str(tmp_path), SPEC)


def test_several_writers_leave_one_complete_set(tmp_path):
    failures = []

    def write():
        try:
            draw_dataset(str(tmp_path), SPEC)
        except OSError as error:
            failures.append(error)

    threads = [threading.Thread(target=write) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert len(list(tmp_path.iterdir())) == 1
    assert len(read(tmp_path, SPEC)["images"]) == 4


def test_an_interrupted_writer_leaves_nothing(tmp_path, monkeypatch):
    def fail(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(shapes.json, "dump", fail)
    with pytest.raises(KeyboardInterrupt):
        draw_dataset(str(tmp_path), SPEC)
    assert not list(tmp_path.iterdir())


def test_shapes_are_of_all_sizes():
    spec = ShapesSpec("train", 1, 200, 0)
    sides = []
    for index in range(40):
        drawn = draw_image(spec, index)
        for (left, top, right, bottom), label in zip(drawn.boxes, drawn.classes, strict=True):
            if shapes.CLASS_NAMES[label] != "triangle":  # Others fill their square in one axis.
                sides.append(max(right - left, bottom - top) / 200)
    low, high = shapes.SIZE_RANGE
    assert low - 0.02 < min(sides) < low + 0.05
    assert high - 0.1 < max(sides) < high + 0.02
    assert np.mean(sides) == pytest.approx((low + high) / 2, abs=0.06)
