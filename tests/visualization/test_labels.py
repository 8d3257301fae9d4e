"""Places of labels."""

import numpy as np
import pytest

from lite_focus_detr.visualization.labels import place_labels


def overlap(first, second):
    sides = [min(first[i + 2], second[i + 2]) - max(first[i], second[i]) for i in (0, 1)]
    return max(0, sides[0]) * max(0, sides[1])


def rectangles(places, sizes):
    return [
        (x, y, x + width, y + height)
        for (x, y), (width, height) in zip(places, sizes, strict=True)
        if (x, y) != (None, None)
    ]


def test_a_label_lies_above_its_box():
    assert place_labels(np.array([[100.0, 50, 200, 90]]), [(40, 10)], (400, 400)) == [(100, 40)]


@pytest.mark.parametrize(
    ("box", "place"),
    [
        ([100, 0, 200, 90], (100, 90)),  # below a box at the upper edge
        ([380, 50, 400, 90], (360, 40)),  # moved along one at the right edge
        ([-20, 50, 30, 90], (0, 40)),
        ([0, 0, 400, 400], (0, 0)),  # inside one as large as the image
        ([0, 0, 60, 400], (60, 0)),  # beside a small one without room above and below
    ],
)
def test_a_label_stays_inside_of_the_image(box, place):
    assert place_labels(np.array([box], float), [(40, 10)], (400, 400)) == [place]


def test_no_label_covers_another_and_all_are_in_the_image():
    random = np.random.RandomState(0)
    corners = random.uniform(0, 350, (200, 2))
    boxes = np.concatenate([corners, corners + random.uniform(5, 80, (200, 2))], 1)
    sizes = [(random.randint(20, 60), 12) for _ in boxes]
    places = place_labels(boxes, sizes, (400, 400))
    kept = [index for index, place in enumerate(places) if place is not None]
    assert 50 < len(kept) < 200
    drawn = rectangles([places[i] for i in kept], [sizes[i] for i in kept])
    for index, first in enumerate(drawn):
        assert min(first) >= 0
        assert max(first) <= 400
        assert all(overlap(first, second) == 0 for second in drawn[:index])
    # A label touches its box.
    for index, (left, top, right, bottom) in zip(kept, drawn, strict=True):
        grown = boxes[index] + [-1, -1, 1, 1]
        assert overlap((left, top, right, bottom), grown) > 0


def test_places_do_not_depend_on_worse_detections():
    random = np.random.RandomState(1)
    corners = random.uniform(0, 300, (60, 2))
    boxes = np.concatenate([corners, corners + 60], 1)
    sizes = [(50, 12)] * 60
    everything = place_labels(boxes, sizes, (400, 400))
    assert place_labels(boxes[:20], sizes[:20], (400, 400)) == everything[:20]


def test_of_two_duplicates_the_better_one_has_the_first_place():
    boxes = np.array([[100.0, 50, 200, 90], [101, 51, 201, 91]])
    first, second = place_labels(boxes, [(40, 10), (40, 10)], (400, 400))
    assert first == (100, 40)
    assert second is not None
    assert second != first


def test_there_is_nothing_to_place():
    assert place_labels(np.empty((0, 4)), [], (10, 10)) == []
