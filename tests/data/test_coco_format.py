"""Annotation files that are refused, with the entry at fault."""

import copy

import pytest

from lite_focus_detr.data.coco_format import (
    check_annotation,
    check_structure,
    is_finite,
    is_number,
    name_first,
)

VALID = {
    "images": [{"id": 1, "file_name": "a.png", "height": 40, "width": 60}],
    "categories": [{"id": 3, "name": "thing"}],
    "annotations": [{"id": 10, "image_id": 1, "category_id": 3, "bbox": [1, 2, 3, 4]}],
}
HUGE = 10**400


def changed(place, **values):
    dataset = copy.deepcopy(VALID)
    dataset[place][0].update(values)
    return dataset


@pytest.mark.parametrize("place", ["images", "annotations", "categories"])
@pytest.mark.parametrize("number", [True, None, [1], {"a": 1}, 1.5, HUGE, float("nan")])
def test_an_id_is_an_integer_or_text(place, number):
    what = {"images": "image", "annotations": "annotation", "categories": "category"}[place]
    with pytest.raises(ValueError, match=rf"{what} number 0 of x\.json has the id .*integer"):
        check_structure(changed(place, id=number), "x.json")


@pytest.mark.parametrize("number", [0, -5, 2**53 - 1, "000001"])
@pytest.mark.parametrize("place", ["images", "annotations"])
def test_every_other_id_passes(place, number):
    check_structure(changed(place, id=number), "x.json")


@pytest.mark.parametrize("name", [None, 3, [], ""])
def test_a_category_has_a_name(name):
    with pytest.raises(ValueError, match=r"category id 3 of x\.json has the name .* must be text"):
        check_structure(changed("categories", name=name), "x.json")


@pytest.mark.parametrize("file_name", [None, 7, ["a.png"], ""])
def test_an_image_has_a_path(file_name):
    with pytest.raises(ValueError, match=r"image id 1 of x\.json has the file_name .* a path"):
        check_structure(changed("images", file_name=file_name), "x.json")


@pytest.mark.parametrize("width", [0, -1, None, True, "60", HUGE, float("nan"), float("inf")])
def test_a_size_is_a_positive_number(width):
    with pytest.raises(ValueError, match=r"image id 1 of x\.json has the .* positive numbers"):
        check_structure(changed("images", width=width), "x.json")


def test_ids_of_images_are_of_one_kind():
    images = [*VALID["images"], {**VALID["images"][0], "id": "two"}]
    with pytest.raises(ValueError, match="image ids that are text and others that are numbers"):
        check_structure({**VALID, "images": images}, "x.json")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"category_id": True}, "category_id True"),
        ({"category_id": 3.0}, r"category_id 3\.0"),
        ({"category_id": HUGE}, "category_id 1000"),
        ({"image_id": [1]}, "image_id must be an integer"),
        ({"image_id": True}, "image_id must be an integer"),
        ({"bbox": [1, 2, True, 4]}, "must be four numbers"),
        ({"ignore": 1}, "mark what is not to be found by 'iscrowd': 1"),
    ],
)
def test_an_annotation_that_cannot_be_read_is_named(values, message):
    [annotation] = changed("annotations", **values)["annotations"]
    with pytest.raises(ValueError, match=f"annotation id 10 of image id .*{message}"):
        check_annotation(annotation, {3}, "x.json")


def test_a_valid_file_passes():
    check_structure(VALID, "x.json")
    check_annotation(VALID["annotations"][0], {3}, "x.json")


def test_numbers_and_their_ends():
    assert [is_number(x) for x in (1, 1.5, True, "1", None)] == [True, True, False, False, False]
    finite = [is_finite(x) for x in (1, 2.5, float("inf"), float("nan"), HUGE)]
    assert finite == [True, True, False, False, False]
    assert name_first([1, "b", 3], limit=2) == "1, 'b', ..."
