"""The images of a training, and the stream that a process takes."""

import pytest
from detectron2.data import DatasetCatalog
from detectron2.utils import comm

from lite_focus_detr.data import register_datasets
from lite_focus_detr.engine.train_data import build_train_stream, training_images


@pytest.fixture
def cfg(make_cfg):
    cfg = make_cfg("SEED", 1)
    register_datasets(cfg)
    return cfg


def test_the_records_are_those_of_the_training_set(cfg):
    assert training_images(cfg) == DatasetCatalog.get("shapes_train")


def test_a_set_without_objects_is_refused_with_the_remedy(cfg, monkeypatch):
    records = [{**x, "annotations": []} for x in DatasetCatalog.get("shapes_train")]
    monkeypatch.setattr(DatasetCatalog, "get", lambda name: records)
    with pytest.raises(
        ValueError, match=r"shapes_train.*set DATALOADER.FILTER_EMPTY_ANNOTATIONS False"
    ):
        training_images(cfg)


def test_a_batch_is_divided_among_the_processes(cfg, monkeypatch):
    images = training_images(cfg)
    monkeypatch.setattr(comm, "get_world_size", lambda: 3)
    with pytest.raises(ValueError, match="IMS_PER_BATCH 2 cannot be divided among 3 processes"):
        build_train_stream(cfg, images)
