"""A trained detector as a function of an image file."""

from __future__ import annotations

from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.modeling import build_model
from detectron2.structures import Instances

from . import model_zoo
from .data import DetrDatasetMapper, register_datasets
from .engine import DetrCheckpointer


def load_inference_config(config_file: str, options: list[str]) -> CfgNode:
    """Read a configuration, take the CPU where there is no GPU, and register its data sets.

    Args:
        config_file: path of a yaml file, or name in the model zoo.
        options: ``KEY VALUE ...``, applied after the file.

    Raises:
        ValueError: a file is missing, or keys or values are wrong.
    """
    cfg = model_zoo.get_config(config_file, options)
    if not torch.cuda.is_available():
        cfg.MODEL.DEVICE = "cpu"
    register_datasets(cfg)
    cfg.freeze()
    return cfg


def load_metadata(cfg: CfgNode) -> Any:
    """Metadata of the first test set, with ``thing_classes`` where the data set is at hand."""
    if not cfg.DATASETS.TEST:
        return MetadataCatalog.get("__unused")
    name = cfg.DATASETS.TEST[0]
    metadata = MetadataCatalog.get(name)
    if metadata.get("thing_classes") is None and name in DatasetCatalog:
        DatasetCatalog.get(name)
    return metadata


class Predictor:
    """Detects objects in image files, with the preprocessing of the evaluation."""

    def __init__(self, cfg: CfgNode) -> None:
        """Build a model and load its weights.

        Args:
            cfg: complete configuration; ``MODEL.WEIGHTS`` names a checkpoint.

        Raises:
            FileNotFoundError: there are no such weights.
            ValueError: ``MODEL.WEIGHTS`` is empty, or the file does not fit the whole model.
        """
        if not cfg.MODEL.WEIGHTS:
            raise ValueError("MODEL.WEIGHTS is empty; name a checkpoint")
        self.model = build_model(cfg).eval()
        DetrCheckpointer(self.model, cfg=cfg, for_inference=True).load(cfg.MODEL.WEIGHTS)
        self.mapper = DetrDatasetMapper(cfg, is_train=False)

    @torch.inference_mode()
    def __call__(self, path: str) -> Instances:
        """Detect objects in an image file.

        Args:
            path: of the image.

        Returns:
            on the CPU: ``pred_boxes`` in pixels of the file, ``scores`` in [0, 1] and
            ``pred_classes``.

        Raises:
            RuntimeError: the image cannot be read.
        """
        record = self.mapper({"file_name": path})
        outputs: list[dict[str, Instances]] = self.model([record])
        return outputs[0]["instances"].to("cpu")
