"""Annotation files with something wrong, through ``train_net.py``."""

import json
import re

import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import COCOEvaluator
from detectron2.structures import Boxes, Instances

from lite_focus_detr.config import load_config
from lite_focus_detr.data import register_datasets

NAN, INF, HUGE = float("nan"), float("inf"), 10**400


def annotations(expected):
    return pytest.mark.fault(area="annotations", expected=expected)


NOT_COCO = {
    "a list": (b"[]", "holds a list instead of a COCO object with the keys"),
    "null": (b"null", "holds a NoneType instead of a COCO object"),
    "text": (b'"annotations"', "holds a str instead of a COCO object"),
    "an empty file": (b"", "is not valid JSON at byte 0 of 0"),
    "UTF-16 text": ('{"images": []}'.encode("utf-16"), "is not UTF-8 text at byte 0; save it as"),
    "Latin-1 text": ('{"images": "é"}'.encode("latin-1"), "is not UTF-8 text at byte 12"),
    "a truncated file": (b'{"images": [{"id": 1, "file_na', "at byte 22 of 30 .*truncated"),
    "a comma too many": (b'{"images": [],}', r"at byte 1\d of 15 \(line 1\)"),
    "an image": (b"\x89PNG\r\n\x1a\n", "is not UTF-8 text at byte 0"),
    "a number of 5,000 digits": (b"[" + b"9" * 5000 + b"]", "cannot be read: .*digits"),
    "100,000 nested lists": (b"[" * 100_000, "cannot be read: .*recursion"),
    "no images": (b'{"categories": [{"id": 1, "name": "cat"}]}', "has no list 'images'"),
    "an empty list of images": (b'{"images": [], "categories": []}', "has no list 'images'"),
    "images that are a mapping": (b'{"images": {"1": {}}}', "has no list 'images'"),
    "images that are numbers": (
        b'{"images": [1, 2], "categories": [{"id": 1, "name": "cat"}]}',
        "image number 0 of .*data.json has no 'id'",
    ),
}


@annotations("refused")
@pytest.mark.parametrize("fault", NOT_COCO)
def test_a_file_that_is_not_coco_is_named_with_the_byte_or_the_entry(train, coco, tmp_path, fault):
    content, pattern = NOT_COCO[fault]
    coco.json_file.write_bytes(content)
    line = train(*coco.options()).refusal()
    assert "data.json" in line
    assert re.search(pattern, line), line
    assert not list((tmp_path / "out").glob("*.pth"))


def without(place, key):
    def change(coco):
        del getattr(coco, place)[1][key]

    return change


def with_value(place, key, value):
    def change(coco):
        getattr(coco, place)[1][key] = value

    return change


def repeat(place):
    def change(coco):
        getattr(coco, place).append(dict(getattr(coco, place)[1]))

    return change


ANNOTATION = "annotation id 2 of image id 3 in .*data.json"
WRONG_ENTRIES = {
    "an image without id": (without("images", "id"), "image number 1 .* no 'id'"),
    "an image without file_name": (without("images", "file_name"), "image id 2 .* no 'file_name'"),
    "an image without width": (without("images", "width"), "image id 2 .* no 'width'"),
    "a category without name": (without("categories", "name"), "category id 2 .* no 'name'"),
    "an annotation without bbox": (without("annotations", "bbox"), "annotation id 2 .* no 'bbox'"),
    "an annotation without image_id": (
        without("annotations", "image_id"),
        "annotation id 2 .* no 'image_id'",
    ),
    "an annotation without category_id": (
        without("annotations", "category_id"),
        "annotation id 2 .* no 'category_id'",
    ),
    "file_name null": (with_value("images", "file_name", None), "image id 2 .* None; .* a path"),
    "file_name a number": (with_value("images", "file_name", 7), "image id 2 .* 7; .* a path"),
    "file_name a list": (with_value("images", "file_name", ["a"]), "image id 2 .* a path"),
    "a width of text": (with_value("images", "width", "64"), "image id 2 .* positive numbers"),
    "a width of zero": (with_value("images", "width", 0), "image id 2 .* positive numbers"),
    "a negative height": (with_value("images", "height", -64), "image id 2 .* positive numbers"),
    "a height of NaN": (with_value("images", "height", NAN), "image id 2 .* positive numbers"),
    "a height of 400 digits": (with_value("images", "height", HUGE), "image id 2 .* positive"),
    "a category name null": (with_value("categories", "name", None), "category id 2 .* be text"),
    "a category name of a number": (
        with_value("categories", "name", 5),
        "category id 2 .* be text",
    ),
    "a category id of text": (with_value("categories", "id", "2"), "category id '2' .* an integer"),
    "a category id of True": (with_value("categories", "id", True), "category number 1 .* integer"),
    "an image id that is a list": (with_value("images", "id", [2]), r"image number 1 .* id \[2\]"),
    "an image id that is a mapping": (with_value("images", "id", {}), "image number 1 .* integer"),
    "an image id null": (with_value("images", "id", None), "image number 1 .* id None"),
    "an image id of 400 digits": (with_value("images", "id", HUGE), "image number 1 .* integer"),
    "an image id of text among numbers": (with_value("images", "id", "b"), "text and others"),
    "an annotation id that is a list": (
        with_value("annotations", "id", [2]),
        r"annotation number 1 .* id \[2\]",
    ),
    "an annotation id null": (with_value("annotations", "id", None), "annotation number 1 .* None"),
    "an annotation id True": (with_value("annotations", "id", True), "annotation number 1 .* True"),
    "an annotation id of 400 digits": (
        with_value("annotations", "id", HUGE),
        "annotation number 1 .* integer",
    ),
    "an image_id that is a list": (
        with_value("annotations", "image_id", [3]),
        "annotation id 2 of image id .*integer",
    ),
    "a bbox of no number": (with_value("annotations", "bbox", []), f"{ANNOTATION} .* four numbers"),
    "a bbox of three numbers": (
        with_value("annotations", "bbox", [1, 2, 3]),
        f"{ANNOTATION} .* four numbers",
    ),
    "a bbox of five numbers": (
        with_value("annotations", "bbox", [1, 2, 3, 4, 5]),
        f"{ANNOTATION} .* four numbers",
    ),
    "a bbox null": (with_value("annotations", "bbox", None), f"{ANNOTATION} .* four numbers"),
    "a bbox of text": (
        with_value("annotations", "bbox", ["1", "2", "3", "4"]),
        f"{ANNOTATION} .* four numbers",
    ),
    "a bbox with a null": (
        with_value("annotations", "bbox", [1, 2, None, 4]),
        f"{ANNOTATION} .* four numbers",
    ),
    "a bbox with True": (
        with_value("annotations", "bbox", [1, 2, True, 4]),
        f"{ANNOTATION} .* four numbers",
    ),
    "a bbox that is a mapping": (
        with_value("annotations", "bbox", {"x": 1}),
        f"{ANNOTATION} .* four numbers",
    ),
    "a category_id that is unknown": (
        with_value("annotations", "category_id", 9),
        f"{ANNOTATION} has the category_id 9; 'categories' has 1, 2, 3",
    ),
    "a category_id of text": (
        with_value("annotations", "category_id", "2"),
        f"{ANNOTATION} has the category_id '2'",
    ),
    "a category_id null": (
        with_value("annotations", "category_id", None),
        f"{ANNOTATION} has the category_id None",
    ),
    "a category_id of a float": (
        with_value("annotations", "category_id", 2.0),
        f"{ANNOTATION} has the category_id 2.0",
    ),
    "a category_id True": (
        with_value("annotations", "category_id", True),
        f"{ANNOTATION} has the category_id True",
    ),
    "a category_id that is a list": (
        with_value("annotations", "category_id", [2]),
        rf"{ANNOTATION} has the category_id \[2\]",
    ),
    "an annotation to ignore": (
        with_value("annotations", "ignore", 1),
        f"{ANNOTATION} has 'ignore'; mark",
    ),
    "the same image id twice": (repeat("images"), "image id 2 occurs more than once"),
    "the same annotation id twice": (repeat("annotations"), "annotation id 2 occurs more than"),
    "the same category id twice": (repeat("categories"), "category id 2 occurs more than once"),
}


@annotations("refused")
@pytest.mark.parametrize("fault", WRONG_ENTRIES)
def test_an_entry_that_cannot_be_read_is_named_with_its_id_or_number(train, coco, tmp_path, fault):
    change, pattern = WRONG_ENTRIES[fault]
    change(coco)
    line = train(*coco.save()).refusal()
    assert re.search(pattern, line), line
    assert "data.json" in line
    assert not list((tmp_path / "out").glob("*.pth"))


INVALID_BOXES = {
    "NaN": ([NAN, 6, 20, 30], "box is not finite"),
    "inf": ([5, 6, INF, 30], "box is not finite"),
    "minus inf": ([5, -INF, 20, 30], "box is not finite"),
    "400 digits": ([5, 6, 20, HUGE], "box is not finite"),
    "a negative width": ([30, 4, -20, 20], "box has zero or negative size"),
    "no width": ([30, 4, 0, 20], "box has zero or negative size"),
    "no height": ([30, 4, 20, 0], "box has zero or negative size"),
    "right of the image": ([64, 4, 20, 20], "box is outside of the image"),
    "below the image": ([4, 70, 20, 20], "box is outside of the image"),
    "left of the image": ([-20, 4, 20, 20], "box is outside of the image"),
    "above the image": ([4, -25, 20, 20], "box is outside of the image"),
    "1e30 wide": ([0, 0, 1e30, 20], "box is more than 10 times larger than the image"),
    "of an image that is not there": (None, "no image has their image_id"),
}


@annotations("repaired")
@pytest.mark.parametrize("fault", INVALID_BOXES)
def test_an_invalid_box_is_left_out_counted_and_named(train, coco, tmp_path, fault):
    bbox, reason = INVALID_BOXES[fault]
    for number in (2, 5):
        changes = {"image_id": 99} if bbox is None else {"bbox": bbox}
        coco.annotations[number - 1].update(changes)
    finished = train(*coco.save()).succeeded()
    assert finished.output.count(reason) == 1
    assert f"mine: 2 annotations of {coco.json_file} are ignored: {reason}" in finished.output
    assert "(annotation ids 2, 5)" in finished.output
    [copy] = (tmp_path / "out/datasets").iterdir()
    kept = json.loads(copy.read_text())["annotations"]
    assert [a["id"] for a in kept] == [1, 3, 4, 6, 7, 8]
    assert (tmp_path / "out/model_final.pth").exists()


@pytest.fixture
def average_precision(call, coco, tmp_path):
    """AP of the true boxes as detections: ``average_precision() -> (Finished, AP)``."""

    def evaluate(options):
        cfg = load_config("", options)
        register_datasets(cfg)
        records = DatasetCatalog.get("mine")
        contiguous = MetadataCatalog.get("mine").thing_dataset_id_to_contiguous_id
        evaluator = COCOEvaluator("mine", distributed=False, output_dir=cfg.OUTPUT_DIR)
        evaluator.reset()
        for record in records:
            objects = [a for a in coco.annotations if a["image_id"] == record["image_id"]]
            found = Instances((64, 64))
            boxes = torch.tensor([a["bbox"] for a in objects], dtype=torch.float).view(-1, 4)
            found.pred_boxes = Boxes(torch.cat((boxes[:, :2], boxes[:, :2] + boxes[:, 2:]), 1))
            found.scores = torch.ones(len(objects))
            found.pred_classes = torch.tensor([contiguous[a["category_id"]] for a in objects])
            evaluator.process([record], [{"instances": found}])
        (tmp_path / "ap.json").write_text(json.dumps(evaluator.evaluate()["bbox"]["AP"]))

    def average_precision():
        options = [*coco.save(), "OUTPUT_DIR", str(tmp_path / "out")]
        finished = call(evaluate, options).succeeded()
        return finished, json.loads((tmp_path / "ap.json").read_text())

    return average_precision


def every(key, values):
    def change(coco):
        for annotation, value in zip(coco.annotations, values, strict=True):
            annotation[key] = value

    return change


def each(key, value):
    return every(key, [value] * 8)


def no(key):
    def change(coco):
        for annotation in coco.annotations:
            del annotation[key]

    return change


SQUARE = [4, 4, 20, 4, 20, 20, 4, 20]
OTHER_VALUES = {
    "annotation ids from 0": (every("id", range(8)), "id"),
    "annotation ids of text": (every("id", "abcdefgh"), "id"),
    "annotation ids from -3": (every("id", range(-3, 5)), "id"),
    "annotation ids of floats": (every("id", [n + 0.0 for n in range(1, 9)]), "id"),
    "no area": (no("area"), "area"),
    "a negative area": (each("area", -5), "area"),
    "an area of zero": (each("area", 0), "area"),
    "an area of NaN": (each("area", NAN), "area"),
    "an area of 1e11": (each("area", 1e11), "area"),
    "an area of 400 digits": (each("area", HUGE), "area"),
    "an area of text": (each("area", "12"), "area"),
    "an area null": (each("area", None), "area"),
    "no iscrowd": (no("iscrowd"), "iscrowd"),
    "an iscrowd of 2": (each("iscrowd", 2), "iscrowd"),
    "an iscrowd null": (each("iscrowd", None), "iscrowd"),
    "an iscrowd of text": (each("iscrowd", "0"), "iscrowd"),
    "an iscrowd that is a list": (each("iscrowd", [0]), "iscrowd"),
    "a polygon of two points": (each("segmentation", [[1, 2, 3, 4]]), "segmentation"),
    "a polygon of odd length": (each("segmentation", [SQUARE[:7]]), "segmentation"),
    "a polygon that is no list": (each("segmentation", [5]), "segmentation"),
    "a flat polygon": (each("segmentation", SQUARE), "segmentation"),
    "a mask of text": (each("segmentation", "mask"), "segmentation"),
    "a mask of a number": (each("segmentation", 7), "segmentation"),
    "run lengths without counts": (each("segmentation", {"size": [64, 64]}), "segmentation"),
    "run lengths without size": (each("segmentation", {"counts": [4096]}), "segmentation"),
    "negative run lengths": (
        each("segmentation", {"size": [64, 64], "counts": [-1, 4097]}),
        "segmentation",
    ),
    "run lengths with a null": (
        each("segmentation", {"size": [64, 64], "counts": [None]}),
        "segmentation",
    ),
}


@annotations("repaired")
@pytest.mark.parametrize("fault", OTHER_VALUES)
def test_true_boxes_have_an_ap_of_100_and_what_was_filled_in_is_said(
    average_precision, coco, fault
):
    change, key = OTHER_VALUES[fault]
    change(coco)
    finished, ap = average_precision()
    assert ap == pytest.approx(100)
    # The log goes to stdout or, before it is set up, to stderr.
    logged = finished.output + finished.errors
    assert re.search(rf"mine: \d annotations of .* have no valid '{key}'; using", logged)


def shift_ids(coco, place, reference, numbers):
    new = dict(zip([entry["id"] for entry in getattr(coco, place)], numbers, strict=True))
    for entry in getattr(coco, place):
        entry["id"] = new[entry["id"]]
    for annotation in coco.annotations:
        annotation[reference] = new[annotation[reference]]


@annotations("survived")
@pytest.mark.parametrize(
    "ids",
    [[0, 1, 2], [3, 17, 90], [-5, 0, 5], [2**40, 7, 1]],
    ids=["from 0", "with gaps", "negative", "of 13 digits"],
)
def test_category_ids_of_any_kind_give_the_right_ap(average_precision, coco, ids):
    shift_ids(coco, "categories", "category_id", ids)
    _, ap = average_precision()
    assert ap == pytest.approx(100)


@annotations("survived")
@pytest.mark.parametrize(
    "ids",
    [[0, 1, 2, 3], [-4, -3, -2, -1], [2**50, 1, 5, 9], ["a", "b", "c", "d"], [1.0, 2.0, 3.0, 4.0]],
    ids=["from 0", "negative", "of 16 digits", "of text", "of floats"],
)
def test_image_ids_of_any_kind_give_the_right_ap(average_precision, coco, ids):
    shift_ids(coco, "images", "image_id", ids)
    _, ap = average_precision()
    assert ap == pytest.approx(100)


@annotations("survived")
@pytest.mark.parametrize("key", ["info", "licenses", "extra"])
def test_other_entries_of_the_file_do_not_matter(average_precision, coco, monkeypatch, key):
    save = coco.save
    monkeypatch.setattr(coco, "save", lambda: save(**{key: [None, {"a": NAN}]}))
    _, ap = average_precision()
    assert ap == pytest.approx(100)


@annotations("repaired")
def test_a_byte_order_mark_is_left_out_of_the_copy_that_pycocotools_reads(
    average_precision, coco, monkeypatch
):
    save = coco.save

    def save_with_mark():
        options = save()
        coco.json_file.write_bytes(b"\xef\xbb\xbf" + coco.json_file.read_bytes())
        return options

    monkeypatch.setattr(coco, "save", save_with_mark)
    _, ap = average_precision()
    assert ap == pytest.approx(100)
    assert coco.json_file.read_bytes().startswith(b"\xef\xbb\xbf")


@annotations("repaired")
def test_two_categories_of_one_name_are_said(train, coco):
    coco.categories[2]["name"] = "cat"
    finished = train(*coco.save()).succeeded()
    assert f"mine: 2 categories of {coco.json_file} are called 'cat'" in finished.output


@annotations("refused")
@pytest.mark.parametrize("fault", ["no annotation at all", "crowds only"])
def test_a_training_set_without_objects_is_refused(train, coco, fault):
    if fault == "crowds only":
        for annotation in coco.annotations:
            annotation["iscrowd"] = 1
    else:
        coco.annotations.clear()
    line = train(*coco.save()).refusal()
    assert "DATASETS.TRAIN ('mine',): No valid data found in mine; set DATALOADER.FILTER" in line


@annotations("survived")
@pytest.mark.parametrize("fault", ["no annotation at all", "crowds only"])
def test_images_without_objects_train_when_they_are_kept(train, coco, fault):
    if fault == "crowds only":
        for annotation in coco.annotations:
            annotation["iscrowd"] = 1
    else:
        coco.annotations.clear()
    kept = ("DATALOADER.FILTER_EMPTY_ANNOTATIONS", "False")
    finished = train(*coco.save(), *kept).succeeded()
    if fault == "no annotation at all":
        assert "mine has no objects to find: its AP will be nan" in finished.output


@annotations("repaired")
@pytest.mark.parametrize("objects", [7, 100], ids=["one more", "ten times as many"])
def test_more_objects_than_queries_are_said_with_the_image_and_the_key(train, coco, objects):
    coco.annotations = [
        {**coco.annotations[0], "id": n, "bbox": [n % 40, n % 30, 20, 20], "image_id": 3}
        for n in range(1, objects + 1)
    ]
    finished = train(*coco.save()).succeeded()
    assert (
        "1 images of data set mine have more objects than MODEL.DETR.NUM_QUERIES 6, up to "
        f"{objects} ({coco.image_root}/3.png)" in finished.output
    )
