"""A detector that is small enough to be built in every test."""

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog

from lite_focus_detr import model_zoo
from lite_focus_detr.tools import demo, visualize

SMALL = {
    "DATASETS.TRAIN": ("shapes_train",),
    "DATASETS.TEST": ("shapes_val",),
    "DATASETS.SHAPES.NUM_VAL": 3,
    "DATASETS.SHAPES.IMAGE_SIZE": 48,
    "INPUT.MIN_SIZE_TEST": 48,
    "MODEL.DEVICE": "cpu",
    "MODEL.WEIGHTS": "",
    "MODEL.DETR.NUM_CLASSES": 3,
    "MODEL.DETR.EMBED_DIM": 32,
    "MODEL.DETR.NORM_GROUPS": 8,
    "MODEL.DETR.NUM_HEADS": 2,
    "MODEL.DETR.NUM_QUERIES": 10,
    "MODEL.DETR.ENCODER.NUM_LAYERS": 1,
    "MODEL.DETR.ENCODER.FFN_DIM": 16,
    "MODEL.DETR.DECODER.NUM_LAYERS": 1,
    "MODEL.DETR.DECODER.FFN_DIM": 16,
    "MODEL.RESNETS.DEPTH": 18,
    "MODEL.RESNETS.RES2_OUT_CHANNELS": 64,
    "TEST.DETECTIONS_PER_IMAGE": 10,
}


@pytest.fixture
def small_config(tmp_path):
    """The configuration of a small detector of shapes."""
    cfg = model_zoo.get_config("deformable_detr/deformable_detr_r50_50ep")
    for key, value in SMALL.items():
        cfg.merge_from_list([key, value])
    cfg.DATASETS.SHAPES.ROOT = str(tmp_path / "shapes")
    cfg.OUTPUT_DIR = str(tmp_path / "output")
    yield cfg
    for name in ("shapes_train", "shapes_val"):
        if name in DatasetCatalog:
            DatasetCatalog.remove(name)
            MetadataCatalog.remove(name)


@pytest.fixture
def small_config_file(small_config, tmp_path):
    """A file with that configuration."""
    path = tmp_path / "small.yaml"
    path.write_text(small_config.dump())
    return str(path)


@pytest.fixture(autouse=True)
def _keep_logging_as_it_is(monkeypatch):
    # Its handlers would outlive the captured streams of a test.
    for module in (demo, visualize):
        monkeypatch.setattr(module, "setup_logger", lambda **_: None)
