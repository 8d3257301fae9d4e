import json
import shutil

import pytest
from detectron2.config import get_cfg
from detectron2.data.datasets.builtin_meta import COCO_CATEGORIES
from PIL import Image

from lite_focus_detr import add_lite_focus_detr_config
from lite_focus_detr.data import register_datasets
from lite_focus_detr.data.validation import check_datasets, check_num_classes

COCO_IDS = [category["id"] for category in COCO_CATEGORIES if category["isthing"]]


@pytest.fixture
def make_cfg(tmp_path):
    """A configuration that trains on one data set with these category ids and tests on another."""

    def make(train_ids, test_ids, **detr):
        cfg = get_cfg()
        add_lite_focus_detr_config(cfg)
        cfg.OUTPUT_DIR = str(tmp_path)
        (tmp_path / "images").mkdir()
        Image.new("RGB", (8, 8)).save(tmp_path / "images/a.jpg")
        for split, ids in (("train", train_ids), ("test", test_ids)):
            content = {
                "images": [{"id": 1, "file_name": "a.jpg", "height": 8, "width": 8}],
                "annotations": [
                    {"id": 1, "image_id": 1, "category_id": ids[0], "bbox": [1, 1, 4, 4]}
                ],
                "categories": [{"id": number, "name": f"c{number}"} for number in ids],
            }
            (tmp_path / f"{split}.json").write_text(json.dumps(content))
            name = f"{tmp_path.name}_{split}"
            images = str(tmp_path / "images")
            cfg.DATASETS.COCO.append([name, str(tmp_path / f"{split}.json"), images])
            setattr(cfg.DATASETS, split.upper(), (name,))
        for key, value in detr.items():
            cfg.MODEL.DETR[key] = value
        register_datasets(cfg)
        return cfg

    return make


def test_matching_numbers_of_classes_pass(make_cfg):
    cfg = make_cfg([1, 2, 7], [1, 2, 7], NUM_CLASSES=3)
    check_datasets(cfg)
    check_num_classes(cfg)


@pytest.mark.parametrize("num_classes", [2, 4, 7, 80])
def test_another_number_of_classes_is_refused_with_the_line_to_change(make_cfg, num_classes):
    cfg = make_cfg([1, 2, 7], [1, 2, 7], NUM_CLASSES=num_classes)
    pattern = (
        rf"NUM_CLASSES is {num_classes}, but data set .*_train \(.*train\.json\) has 3 categories; "
        r"set MODEL\.DETR\.NUM_CLASSES 3$"
    )
    with pytest.raises(ValueError, match=pattern):
        check_num_classes(cfg)


def test_the_test_set_is_checked_too_and_alone_in_evaluation(make_cfg):
    cfg = make_cfg([1, 2, 7], [1, 2], NUM_CLASSES=3)
    with pytest.raises(ValueError, match=r"data set .*_test \(.*set MODEL\.DETR\.NUM_CLASSES 2"):
        check_num_classes(cfg)
    cfg.MODEL.DETR.NUM_CLASSES = 2
    check_num_classes(cfg, eval_only=True)


def test_91_rows_of_coco_ids_go_with_the_80_categories_of_coco(make_cfg):
    cfg = make_cfg(COCO_IDS, COCO_IDS, NUM_CLASSES=91, COCO_ID_ROWS=True)
    assert len(COCO_IDS) == 80
    check_num_classes(cfg)


def test_91_rows_of_coco_ids_do_not_go_with_other_categories(make_cfg):
    cfg = make_cfg([1, 2, 7], [1, 2, 7], NUM_CLASSES=91, COCO_ID_ROWS=True)
    with pytest.raises(ValueError, match=r"set MODEL\.DETR\.COCO_ID_ROWS False .*NUM_CLASSES 3"):
        check_num_classes(cfg)


def test_an_unregistered_data_set_is_named_with_the_likely_one(make_cfg):
    cfg = make_cfg([1], [1], NUM_CLASSES=1)
    cfg.DATASETS.TRAIN = ("coco_2017_trian",)
    with pytest.raises(ValueError, match=r"'coco_2017_trian' .*did you mean coco_2017_train"):
        check_datasets(cfg)


def test_missing_files_of_a_data_set_of_detectron2_are_named(make_cfg, monkeypatch):
    cfg = make_cfg([1], [1], NUM_CLASSES=80)
    cfg.DATASETS.TEST = ("coco_2017_val",)
    with pytest.raises(ValueError, match=r"instances_val2017\.json of data set coco_2017_val does"):
        check_datasets(cfg, eval_only=True)


def test_a_missing_image_folder_is_named(make_cfg, tmp_path):
    cfg = make_cfg([1], [1], NUM_CLASSES=1)
    shutil.rmtree(tmp_path / "images")
    with pytest.raises(ValueError, match=r"image folder .*images of data set .*_train does not"):
        check_datasets(cfg)


@pytest.mark.parametrize(("eval_only", "key"), [(False, "TRAIN"), (True, "TEST")])
def test_an_empty_list_of_data_sets_is_refused(make_cfg, eval_only, key):
    cfg = make_cfg([1], [1], NUM_CLASSES=1)
    setattr(cfg.DATASETS, key, ())
    with pytest.raises(ValueError, match=f"DATASETS.{key} is empty"):
        check_datasets(cfg, eval_only=eval_only)


def test_the_generated_data_set_is_not_drawn_by_the_check(make_cfg, tmp_path):
    cfg = make_cfg([1], [1], NUM_CLASSES=3)
    cfg.DATASETS.SHAPES.ROOT = str(tmp_path / "shapes")
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = ("shapes_train",), ("shapes_val",)
    register_datasets(cfg)
    check_datasets(cfg)
    assert not (tmp_path / "shapes").exists()


def test_the_file_in_the_message_is_that_of_the_user_and_not_its_repaired_copy(make_cfg, tmp_path):
    cfg = make_cfg([1, 2, 7], [1, 2, 7], NUM_CLASSES=2)  # The areas are missing.
    with pytest.raises(ValueError, match=r"has 3 categories") as error:
        check_num_classes(cfg)
    assert f"({tmp_path / 'train.json'})" in str(error.value)


def test_80_other_categories_are_not_those_of_coco(make_cfg):
    ids = list(range(1, 81))
    cfg = make_cfg(ids, ids, NUM_CLASSES=91, COCO_ID_ROWS=True)
    with pytest.raises(ValueError, match=r"set MODEL\.DETR\.COCO_ID_ROWS False .*NUM_CLASSES 80"):
        check_num_classes(cfg)
