"""Registration of data sets from the configuration."""

import json
import multiprocessing
from concurrent.futures import ProcessPoolExecutor

import numpy as np
import pytest
import torch
from detectron2.config import get_cfg
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import COCOEvaluator
from detectron2.structures import Boxes, Instances
from PIL import Image

from lite_focus_detr.config import add_lite_focus_detr_config
from lite_focus_detr.data import register_datasets
from lite_focus_detr.data.coco_json import prepare_coco_json


@pytest.fixture(autouse=True)
def _restore_catalogs():
    prepare_coco_json.cache_clear()
    before = set(DatasetCatalog)
    yield
    for name in set(DatasetCatalog) - before:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


@pytest.fixture
def cfg(tmp_path):
    cfg = get_cfg()
    add_lite_focus_detr_config(cfg)
    cfg.OUTPUT_DIR = str(tmp_path / "output")
    cfg.DATASETS.SHAPES.ROOT = str(tmp_path / "shapes")
    cfg.DATASETS.SHAPES.NUM_TRAIN, cfg.DATASETS.SHAPES.NUM_VAL = 3, 2
    cfg.DATASETS.SHAPES.IMAGE_SIZE = 32
    return cfg


def write_coco(folder, name="mine"):
    """Two images; without area, iscrowd and info; the second box is NaN, the third has no area."""
    (folder / "images").mkdir(exist_ok=True)
    images = []
    for image_id in (1, 2):
        Image.fromarray(np.zeros((40, 60, 3), np.uint8)).save(folder / f"images/{image_id}.png")
        images.append({"id": image_id, "file_name": f"{image_id}.png", "height": 40, "width": 60})
    boxes = [
        (1, [2, 3, 20, 10]),
        (1, [float("nan"), 3, 20, 10]),
        (2, [5, 5, 0, 0]),
        (2, [1, 2, 9, 9]),
    ]
    annotations = [
        {"id": i + 1, "image_id": image_id, "category_id": 7, "bbox": bbox}
        for i, (image_id, bbox) in enumerate(boxes)
    ]
    categories = [{"id": 7, "name": "cell"}, {"id": 3, "name": "plate"}]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (folder / f"{name}.json").write_text(json.dumps(content))
    return [name, str(folder / f"{name}.json"), str(folder / "images")]


def test_a_data_set_of_ones_own_loads_without_its_bad_boxes(cfg, tmp_path):
    cfg.DATASETS.COCO = [write_coco(tmp_path)]
    register_datasets(cfg)
    records = DatasetCatalog.get("mine")
    assert [[a["bbox"] for a in record["annotations"]] for record in records] == [
        [[2, 3, 20, 10]],
        [[1, 2, 9, 9]],
    ]
    assert {a["category_id"] for record in records for a in record["annotations"]} == {1}
    assert MetadataCatalog.get("mine").thing_classes == ["plate", "cell"]


@pytest.mark.parametrize("load_first", [True, False])
def test_the_evaluator_accepts_a_file_without_area_and_ignores_bad_boxes(cfg, tmp_path, load_first):
    cfg.DATASETS.COCO = [write_coco(tmp_path)]
    register_datasets(cfg)
    if load_first:
        DatasetCatalog.get("mine")
    evaluator = COCOEvaluator("mine", distributed=False, output_dir=str(tmp_path / "inference"))
    evaluator.reset()
    for image_id, box in ((1, [2.0, 3.0, 22.0, 13.0]), (2, [1.0, 2.0, 10.0, 11.0])):
        instances = Instances((40, 60))
        instances.pred_boxes = Boxes(torch.tensor([box]))
        instances.scores = torch.tensor([0.9])
        instances.pred_classes = torch.tensor([1])
        evaluator.process([{"image_id": image_id}], [{"instances": instances}])
    # Both valid boxes are found exactly; a NaN or empty one would count as missed or as matched.
    results = evaluator.evaluate()["bbox"]
    assert results["AP-cell"] == pytest.approx(100)
    assert results["AP50"] == pytest.approx(100)


def test_registering_twice_changes_nothing(cfg, tmp_path):
    cfg.DATASETS.COCO = [write_coco(tmp_path)]
    register_datasets(cfg)
    DatasetCatalog.get("mine")
    before = MetadataCatalog.get("mine")
    register_datasets(cfg)
    assert MetadataCatalog.get("mine") is before
    assert DatasetCatalog.get("mine")


def test_a_name_follows_its_new_paths(cfg, tmp_path):
    cfg.DATASETS.COCO = [["mine", "/no/such.json", "/no"]]
    register_datasets(cfg)
    cfg.DATASETS.COCO = [write_coco(tmp_path)]
    register_datasets(cfg)
    assert len(DatasetCatalog.get("mine")) == 2


def test_a_name_of_detectron2_is_refused(cfg, tmp_path):
    cfg.DATASETS.COCO = [["coco_2017_val", "a.json", "b"]]
    with pytest.raises(ValueError, match="coco_2017_val exists already; choose another name"):
        register_datasets(cfg)


@pytest.mark.parametrize(
    "names", [["shapes_train"], ["shapes_val"], ["mine", "mine"], ["mine", "other", "mine"]]
)
def test_a_name_is_given_once(cfg, tmp_path, names):
    cfg.DATASETS.COCO = [[name, f"{i}.json", "images"] for i, name in enumerate(names)]
    message = rf"DATASETS\.COCO: a data set named {names[-1]} exists already; choose another"
    with pytest.raises(ValueError, match=message):
        register_datasets(cfg)


@pytest.mark.parametrize("entry", [["mine", "a.json"], ["mine", "a.json", 3], []])
def test_a_malformed_entry_is_shown(cfg, entry):
    cfg.DATASETS.COCO = [entry]
    with pytest.raises(ValueError, match=r"DATASETS\.COCO has the entry"):
        register_datasets(cfg)


def test_missing_files_are_reported_when_the_data_set_is_used(cfg, tmp_path):
    _, json_file, _ = write_coco(tmp_path)
    cfg.DATASETS.COCO = [["a", "/no/such.json", "/no"], ["b", json_file, "/no/images"]]
    register_datasets(cfg)
    with pytest.raises(ValueError, match=r"/no/such\.json does not exist"):
        DatasetCatalog.get("a")
    with pytest.raises(ValueError, match="image folder /no/images of data set b does not exist"):
        DatasetCatalog.get("b")


def test_the_generated_sets_are_drawn_when_they_are_used(cfg, tmp_path):
    register_datasets(cfg)
    assert not (tmp_path / "shapes").exists()
    records = DatasetCatalog.get("shapes_train")
    assert len(records) == 3
    assert len(DatasetCatalog.get("shapes_val")) == 2
    assert MetadataCatalog.get("shapes_val").thing_classes == ["rectangle", "ellipse", "triangle"]
    assert COCOEvaluator("shapes_val", distributed=False, output_dir=str(tmp_path))


def _count_records(cfg):
    register_datasets(cfg)
    return len(DatasetCatalog.get("mine"))


def test_a_spawned_process_registers_from_the_configuration(cfg, tmp_path):
    cfg.DATASETS.COCO = [write_coco(tmp_path)]
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        assert pool.submit(_count_records, cfg).result(timeout=120) == 2


@pytest.mark.fault(area="security", expected="refused")
@pytest.mark.parametrize(
    "name", ["../../x", "a/../../x", "/tmp/x", "..", ".", ".hidden", "", "a\0b", "a\nb", "x" * 201]
)
def test_names_that_lead_out_of_the_output_folder_are_refused(cfg, name, tmp_path):
    cfg.DATASETS.COCO = [[name, "a.json", "images"]]
    with pytest.raises(ValueError, match=r"has a data set named .*OUTPUT_DIR"):
        register_datasets(cfg)
    assert name not in DatasetCatalog


@pytest.mark.parametrize("name", ["zellen_größe", "my cells", "v1.2-train"])
def test_names_of_all_languages_with_spaces_and_dots_are_registered(cfg, name):
    cfg.DATASETS.COCO = [[name, "a.json", "images"]]
    register_datasets(cfg)
    assert name in DatasetCatalog
    DatasetCatalog.remove(name)
    MetadataCatalog.remove(name)
