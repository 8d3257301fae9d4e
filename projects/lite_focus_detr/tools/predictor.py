"""A trained detector as a function of an image file; shared by the command-line tools."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.modeling import build_model
from detectron2.structures import Instances
from matplotlib.backend_bases import FigureCanvasBase

from .. import model_zoo
from ..config import load_config
from ..data import DetrDatasetMapper, register_datasets
from ..data.validation import check_datasets
from ..engine import DetrCheckpointer


def load_inference_config(config_file: str, options: list[str]) -> CfgNode:
    """Read a configuration, take the CPU where there is no GPU, and register its data sets.

    Args:
        config_file: path of a yaml file, or name in the model zoo.
        options: ``KEY VALUE ...``, applied after the file.

    Raises:
        ValueError: a file is missing, or keys or values are wrong.
    """
    cfg = load_config(model_zoo.find_config_file(config_file), options)
    if not torch.cuda.is_available():
        cfg.MODEL.DEVICE = "cpu"
    register_datasets(cfg)
    cfg.freeze()
    return cfg


def load_records(cfg: CfgNode, dataset: str | None, count: int) -> tuple[str, list[dict[str, Any]]]:
    """Name and first ``count`` records of a data set, by default the first of ``DATASETS.TEST``.

    Raises:
        ValueError: there is no such data set, or its files or classes do not fit ``cfg``.
    """
    cfg = cfg.clone()
    cfg.defrost()
    cfg.DATASETS.TEST = (dataset,) if dataset else cfg.DATASETS.TEST[:1]
    check_datasets(cfg, eval_only=True)
    (name,) = cfg.DATASETS.TEST
    return name, DatasetCatalog.get(name)[:count]


def picture_file(path: str) -> Path:
    """The path of a picture to write, in a folder that is created when needed.

    Raises:
        OSError: the folder cannot be created.
        ValueError: the suffix is not that of a format that can be written.
    """
    known = FigureCanvasBase.get_supported_filetypes()
    suffix = Path(path).suffix.lstrip(".").lower()
    if suffix not in known:
        raise ValueError(f"cannot write the picture {path}: end it with .{', .'.join(known)}")
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    return Path(path)


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
        """Build the model of ``cfg`` and load ``MODEL.WEIGHTS``.

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

        Returns:
            on the CPU: ``pred_boxes`` in pixels of the file, ``scores`` in [0, 1] and
            ``pred_classes``.

        Raises:
            RuntimeError: the image cannot be read.
        """
        record = self.mapper({"file_name": path})
        outputs: list[dict[str, Instances]] = self.model([record])
        return outputs[0]["instances"].to("cpu")
