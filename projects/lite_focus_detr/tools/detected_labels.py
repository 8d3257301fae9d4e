"""Detections in place of labels, as a data set in COCO format; for ``sparsify``."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog
from torchvision.ops import box_convert
from tqdm import tqdm

from ..data import DetrDatasetMapper
from ..engine.detector_record import classes_of, num_classes
from ..modeling import DetectionTransformer

#: Name of the data set that is made.
DATASET = "detected"


def detect_labels(
    cfg: CfgNode, model: DetectionTransformer, folder: Path, least_score: float
) -> CfgNode:
    """Detect in the training images, and train with what is found instead of their labels.

    Args:
        cfg: of the detector, its data sets registered.
        model: whose detections these are.
        folder: for the file of the data set.
        least_score: of a detection that counts, in [0, 1].

    Returns:
        a configuration whose ``DATASETS.TRAIN`` is ``DATASET``, with the classes of the data sets
        of ``cfg``.

    Raises:
        ValueError: nothing is found.
    """
    model.eval()
    mapper = DetrDatasetMapper(cfg, is_train=False)
    records = [record for name in cfg.DATASETS.TRAIN for record in DatasetCatalog.get(name)]
    if cfg.INPUT.SKIP_UNREADABLE:
        mapper.skip_unreadable(len(records))
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    readable = filter(None, map(mapper, tqdm(records, desc="detecting", leave=False)))
    for number, inputs in enumerate(readable, start=1):
        height, width = inputs["height"], inputs["width"]
        file = str(Path(inputs["file_name"]).absolute())
        images.append({"id": number, "file_name": file, "height": height, "width": width})
        for found in _detections(model, inputs, least_score):
            annotations.append({"id": len(annotations) + 1, "image_id": number, **found})
    if not annotations:
        raise ValueError(
            f"the dense detector finds nothing with a score of {least_score} or more in "
            f"{', '.join(cfg.DATASETS.TRAIN)}: are these the images that it was trained for?"
        )
    names = classes_of(cfg).names or [f"class {label}" for label in range(num_classes(cfg))]
    categories = [{"id": label, "name": name} for label, name in enumerate(names, start=1)]
    contents = {"images": images, "annotations": annotations, "categories": categories}
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{DATASET}.json"
    path.write_text(json.dumps(contents))
    cfg = cfg.clone()
    cfg.defrost()
    cfg.DATASETS.COCO = [*cfg.DATASETS.COCO, [DATASET, str(path), str(folder)]]
    cfg.DATASETS.TRAIN = (DATASET,)
    return cfg


def _detections(
    model: DetectionTransformer, inputs: dict[str, Any], least_score: float
) -> Iterator[dict[str, Any]]:
    """What annotations say of the detections in an image."""
    with torch.inference_mode():
        found = model([inputs])[0]["instances"].to("cpu")
    found = found[found.scores >= least_score]
    boxes = box_convert(found.pred_boxes.tensor, "xyxy", "xywh").tolist()
    for box, label in zip(boxes, found.pred_classes.tolist(), strict=True):
        yield {"category_id": label + 1, "bbox": box, "area": box[2] * box[3], "iscrowd": 0}
