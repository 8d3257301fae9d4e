"""A data folder as configuration."""

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog

from lite_focus_detr.config import load_config
from lite_focus_detr.data import register_datasets
from lite_focus_detr.data.folders import AnnotatedImages, DataFolder, folder_options

SPLITS = {name: AnnotatedImages(f"{name}.json", f"my {name}") for name in ("train", "val", "test")}
FOUND = DataFolder("COCO", SPLITS["train"], SPLITS["val"], SPLITS["test"], ("cell", "it's"))


def test_a_configuration_has_the_data_sets_and_classes():
    cfg = load_config("", folder_options(FOUND, "/data/my cells!/"))
    assert list(map(list, cfg.DATASETS.COCO)) == [
        ["my_cells__train", "train.json", "my train"],
        ["my_cells__val", "val.json", "my val"],
        ["my_cells__test", "test.json", "my test"],
    ]
    assert cfg.DATASETS.TRAIN == ("my_cells__train",)
    assert cfg.DATASETS.TEST == ("my_cells__val",)
    assert cfg.MODEL.DETR.NUM_CLASSES == 2


def test_another_split_is_evaluated():
    found = DataFolder("COCO", None, None, SPLITS["test"], ("cell",))
    cfg = load_config("", folder_options(found, ".", test="test"))
    assert cfg.DATASETS.TRAIN == ()
    assert cfg.DATASETS.TEST[0].endswith("_test")
    with pytest.raises(ValueError, match="cells has no split val; it has test"):
        folder_options(found, "cells")


@pytest.mark.parametrize("folder", ["coco_2017", "voc_2007", "shapes"])
def test_names_of_known_data_sets_are_left_to_them(folder):
    cfg = load_config("", folder_options(FOUND, f"/data/{folder}"))
    assert list(cfg.DATASETS.TRAIN) == [f"{folder}_data_train"]
    register_datasets(cfg)
    assert folder_options(FOUND, f"/data/{folder}")[3] == f"('{folder}_data_train',)"
    for split in SPLITS:
        DatasetCatalog.remove(f"{folder}_data_{split}")
        MetadataCatalog.remove(f"{folder}_data_{split}")
