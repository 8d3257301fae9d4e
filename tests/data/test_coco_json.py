"""Checks and repairs of COCO annotation files."""

import json
import logging

import pytest
from detectron2.data.datasets import load_coco_json
from pycocotools.coco import COCO

from lite_focus_detr.data.coco_json import clean_coco, prepare_coco_json, read_coco_json


@pytest.fixture(autouse=True)
def _forget_prepared_files():
    prepare_coco_json.cache_clear()


def coco(*bboxes, **changes):
    annotations = [
        {"id": 10 + i, "image_id": 1, "category_id": 3, "bbox": bbox, "area": 4, "iscrowd": 0}
        for i, bbox in enumerate(bboxes)
    ]
    return {
        "images": [{"id": 1, "file_name": "a.png", "height": 40, "width": 60}],
        "categories": [{"id": 3, "name": "thing"}],
        "annotations": annotations,
        **changes,
    }


def write(path, content):
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return str(path)


NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("bbox", "reason"),
    [
        ([NAN, 1, 5, 5], "not finite"),
        ([1, 1, INF, 5], "not finite"),
        ([-INF, 1, 5, 5], "not finite"),
        ([30, 4, -20, 20], "zero or negative"),
        ([30, 4, 0, 20], "zero or negative"),
        ([30, 4, 20, 0], "zero or negative"),
        ([60, 4, 5, 5], "outside"),
        ([5, 41, 5, 5], "outside"),
        ([-9, 4, 9, 5], "outside"),
        ([5, -5, 5, 4], "outside"),
        ([-1e30, 4, 2e30, 5], "larger than the image"),
    ],
)
def test_a_box_that_cannot_be_one_is_left_out_with_its_reason(bbox, reason):
    cleaned = clean_coco(coco([1, 2, 3, 4], bbox), "x.json")
    assert [a["id"] for a in cleaned.dataset["annotations"]] == [10]
    [(given, ids)] = cleaned.dropped.items()
    assert reason in given
    assert ids == [11]


@pytest.mark.parametrize("bbox", [[0, 0, 60, 40], [-3, -3, 10, 10], [59.5, 39.5, 80, 80]])
def test_a_box_that_reaches_into_the_image_is_kept_as_it_is(bbox):
    cleaned = clean_coco(coco(bbox), "x.json")
    assert cleaned.dataset["annotations"][0]["bbox"] == bbox
    assert not cleaned.dropped


def test_an_annotation_of_no_image_is_left_out():
    dataset = coco([1, 2, 3, 4])
    dataset["annotations"][0]["image_id"] = 99
    assert clean_coco(dataset, "x.json").dropped == {"no image has their image_id": [10]}


def test_missing_area_and_iscrowd_are_filled():
    dataset = coco([1, 2, 3, 4], [1, 2, 5, 6])
    del dataset["annotations"][0]["area"], dataset["annotations"][0]["iscrowd"]
    dataset["annotations"][1]["area"] = NAN
    cleaned = clean_coco(dataset, "x.json")
    assert [(a["area"], a["iscrowd"]) for a in cleaned.dataset["annotations"]] == [(12, 0), (30, 0)]
    assert cleaned.filled == {"area": [10, 11], "iscrowd": [10]}


@pytest.mark.parametrize(
    "segmentation",
    [
        [[2, 3, 22, 13]],
        [[2, 3, 22, 3, 22]],
        [[]],
        [2, 3, 22, 3, 22, 13],
        [[2, 3, 22, 3, 22, 13], 5],
        "mask",
    ],
)
def test_a_segmentation_without_a_polygon_leaves_the_box_to_loader_and_evaluator(
    tmp_path, segmentation
):
    dataset = coco([2, 3, 20, 10])
    dataset["annotations"][0]["segmentation"] = segmentation
    json_file = write(tmp_path / "x.json", dataset)
    copy = prepare_coco_json("mine", json_file, str(tmp_path / "cache"))
    assert clean_coco(dataset, "x.json").filled == {"segmentation": [10]}
    [record] = load_coco_json(copy, str(tmp_path))
    assert [a["bbox"] for a in record["annotations"]] == [[2, 3, 20, 10]]
    assert COCO(copy).getAnnIds() == [10]


@pytest.mark.parametrize(
    "segmentation",
    [
        [],
        None,
        [[2, 3, 22, 3, 22, 13]],
        [[2, 3, 22, 13], [2, 3, 22, 3, 22, 13]],
        {"size": [40, 60], "counts": [2400]},
    ],
)
def test_a_segmentation_that_can_be_read_is_kept(segmentation):
    dataset = coco([2, 3, 20, 10])
    dataset["annotations"][0]["segmentation"] = segmentation
    cleaned = clean_coco(dataset, "x.json")
    assert cleaned.dataset == dataset
    assert not cleaned.filled


def test_each_reason_is_logged_once_with_count_and_ids(tmp_path, caplog):
    bad = [[1, 1, 0, 5]] * 7 + [[NAN, 1, 5, 5]]
    json_file = write(tmp_path / "x.json", coco([1, 2, 3, 4], *bad))
    with caplog.at_level(logging.WARNING, logger="lite_focus_detr"):
        for _ in range(3):
            prepare_coco_json("mine", json_file, str(tmp_path / "cache"))
    messages = [record.getMessage() for record in caplog.records]
    assert len(messages) == 2
    assert "mine: 7 annotations" in messages[0]
    assert "11, 12, 13, 14, 15, ..." in messages[0]
    assert "mine: 1 annotations" in messages[1]


def test_a_healthy_file_is_used_as_it_is(tmp_path):
    json_file = write(tmp_path / "x.json", coco([1, 2, 3, 4]))
    assert prepare_coco_json("mine", json_file, str(tmp_path / "cache")) == json_file
    assert not (tmp_path / "cache").exists()


def test_the_repaired_copy_has_only_the_valid_boxes(tmp_path):
    json_file = write(tmp_path / "x.json", coco([1, 2, 3, 4], [1, 1, 0, 5]))
    copy = prepare_coco_json("mine", json_file, str(tmp_path / "cache"))
    assert read_coco_json(copy) == coco([1, 2, 3, 4])
    assert [p.name for p in (tmp_path / "cache").iterdir()] == ["mine.json"]


def test_a_process_that_reads_the_old_copy_still_reads_all_of_it(tmp_path):
    json_file = write(tmp_path / "x.json", coco([1, 2, 3, 4], [1, 1, 0, 5]))
    copy = prepare_coco_json("mine", json_file, str(tmp_path / "cache"))
    prepare_coco_json.cache_clear()
    write(tmp_path / "x.json", coco([5, 6, 7, 8], [1, 1, 0, 5]))
    with open(copy) as reader:
        assert prepare_coco_json("mine", json_file, str(tmp_path / "cache")) == copy
        assert json.load(reader) == coco([1, 2, 3, 4])
    assert read_coco_json(copy) == coco([5, 6, 7, 8])


def test_a_missing_file_is_named():
    with pytest.raises(ValueError, match=r"/no/such\.json does not exist"):
        read_coco_json("/no/such.json")


def test_a_truncated_file_is_reported_with_the_byte(tmp_path):
    text = '{"images": ["\u00e9\u00e9", 1'
    json_file = write(tmp_path / "x.json", text)
    with pytest.raises(ValueError, match=rf"x\.json .* byte {len(text) + 2} of {len(text) + 2} "):
        read_coco_json(json_file)


def test_bytes_that_are_not_text_are_reported_with_their_place(tmp_path):
    (tmp_path / "x.json").write_bytes(b'{"a": "\xff"}')
    with pytest.raises(ValueError, match="not UTF-8 text at byte 7"):
        read_coco_json(str(tmp_path / "x.json"))


def without(dataset, place, key):
    del dataset[place][0][key]
    return dataset


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([1, 2], "holds a list"),
        (coco(images=[]), "'images'"),
        (coco(categories=[]), "'categories'"),
        ({"images": coco()["images"]}, "'categories'"),
        (coco(annotations={}), "'annotations' .* not a list"),
        (without(coco(), "images", "height"), "image id 1 .* no 'height'"),
        (without(coco(), "categories", "name"), "category id 3 .* no 'name'"),
        (without(coco([1, 2, 3, 4]), "annotations", "bbox"), "annotation id 10 .* no 'bbox'"),
        (without(coco([1, 2, 3, 4]), "annotations", "id"), "annotation number 0 .* no 'id'"),
        (coco(images=[{**coco()["images"][0], "width": "60"}]), "image id 1 .* positive numbers"),
        (coco(images=[{**coco()["images"][0], "height": 0}]), "image id 1 .* positive numbers"),
        (coco(images=coco()["images"] * 2), "image id 1 occurs more than once"),
        (coco(annotations=coco([1, 2, 3, 4])["annotations"] * 2), "annotation id 10 occurs more"),
        (coco(categories=[{"id": "3", "name": "thing"}]), "category id '3' .* integer"),
    ],
)
def test_a_file_that_is_not_coco_is_refused(tmp_path, content, message):
    json_file = write(tmp_path / "x.json", content)
    with pytest.raises(ValueError, match=message):
        read_coco_json(json_file)


@pytest.mark.parametrize("bbox", [[1, 2, 3], [], None, [1, 2, "3", 4], [1, 2, None, 4], "abcd"])
def test_a_bbox_that_is_not_four_numbers_is_reported_with_image_and_annotation(bbox):
    with pytest.raises(ValueError, match=r"annotation id 10 of image id 1 in x\.json .* bbox"):
        clean_coco(coco(bbox), "x.json")


@pytest.mark.parametrize("category", [4, "3", None, [3]])
def test_an_unknown_category_is_reported_with_image_and_annotation(category):
    dataset = coco([1, 2, 3, 4])
    dataset["annotations"][0]["category_id"] = category
    with pytest.raises(ValueError, match=r"annotation id 10 of image id 1 .* category_id .* has 3"):
        clean_coco(dataset, "x.json")


def test_a_test_set_may_have_no_annotations():
    dataset = coco()
    del dataset["annotations"]
    assert "annotations" not in clean_coco(dataset, "x.json").dataset


def test_a_file_that_begins_with_a_byte_order_mark_is_read(tmp_path):
    (tmp_path / "x.json").write_bytes(b"\xef\xbb\xbf" + json.dumps(coco([1, 2, 3, 4])).encode())
    assert read_coco_json(str(tmp_path / "x.json")) == coco([1, 2, 3, 4])
