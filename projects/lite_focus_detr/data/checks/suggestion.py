"""Which configuration to begin with for a data set."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from detectron2.config import CfgNode

from ..validation import crowded_images
from .findings import Finding, Level
from .splits import Split

#: For data up to so many training images, and for more; see the README.
SMALL_DATA = 5000
SMALL_CONFIG = "dino_small"
LARGE_CONFIG = "lite_dino_h3l1_2p1x3_r50_36ep"

#: Pixels that nine of ten objects shall have at least in the resized image, in the geometric mean
#: of width and height: two tokens of the finest level in a row.
OBJECT_PIXELS = 16
_STEP = 32
_LARGEST = 800
# Queries beyond the largest number of objects that was seen.
_SPARE = 1.1
_QUERY_STEP = 50


@dataclass(frozen=True)
class Suggestion:
    """What to train with."""

    config: str  #: name in the model zoo, or path
    num_classes: int
    image_size: int  #: short side in pixels
    num_queries: int
    options: tuple[str, ...]  #: ``KEY VALUE ...`` where the configuration says something else


def suggest_config(splits: Sequence[Split]) -> str:
    """Name of a configuration for the number of training images."""
    return SMALL_CONFIG if len(splits[0].dataset["images"]) <= SMALL_DATA else LARGE_CONFIG


def suggest(config: str, cfg: CfgNode, splits: Sequence[Split]) -> tuple[Suggestion, list[Finding]]:
    """Fit a configuration to a data set.

    Args:
        config: its name or path.
        cfg: the same, complete.
        splits: the training split first.

    Returns:
        what to change, and a finding if images have more objects than there are queries.
    """
    size = _image_size(cfg, splits[0])
    most = max(len(own) for split in splits for own in split.objects.values())
    queries = max(cfg.MODEL.DETR.NUM_QUERIES, _round_up(_SPARE * most, _QUERY_STEP))
    if most <= cfg.MODEL.DETR.NUM_QUERIES:
        queries = cfg.MODEL.DETR.NUM_QUERIES
    options = [*_size_options(cfg, size)]
    if queries > cfg.MODEL.DETR.NUM_QUERIES:
        options += ["MODEL.DETR.NUM_QUERIES", str(queries)]
    if queries > cfg.TEST.DETECTIONS_PER_IMAGE:
        options += ["TEST.DETECTIONS_PER_IMAGE", str(queries)]
    num_classes = len(splits[0].categories)
    found = list(_check_crowds(config, cfg.MODEL.DETR.NUM_QUERIES, splits))
    return Suggestion(config, num_classes, size, queries, tuple(options)), found


def _check_crowds(config: str, limit: int, splits: Sequence[Split]) -> Iterator[Finding]:
    for split in splits:
        counts = {
            split.path(image): len(split.objects[image["id"]]) for image in split.dataset["images"]
        }
        crowded = crowded_images(counts, limit)
        if crowded:
            text = (
                f"images of {split.name} with more objects than the {limit} queries of {config}: "
                "the rest is never found"
            )
            examples = (f"{path} {counts[path]}" for path in crowded)
            yield Finding.of(Level.WARNING, "queries", text, examples)


def _image_size(cfg: CfgNode, train: Split) -> int:
    """Short side at which nine of ten objects are large enough, if the images have it."""
    sides, shares = [], []
    for image in train.dataset["images"]:
        short = min(image["width"], image["height"])
        sides.append(short)
        boxes = (annotation["bbox"] for annotation in train.objects[image["id"]])
        shares += [math.sqrt(w * h) / short for _, _, w, h in boxes]
    configured = int(cfg.INPUT.MIN_SIZE_TEST)
    if not shares:
        return configured
    wanted = _round_up(OBJECT_PIXELS / float(np.quantile(shares, 0.1)), _STEP)
    # Pixels that are not in the files help little.
    possible = _round_up(float(np.median(sides)), _STEP)
    return max(configured, min(wanted, possible, _LARGEST))


def _size_options(cfg: CfgNode, size: int) -> Iterator[str]:
    """All sizes of the configuration in proportion to that of the evaluation."""
    scale = size / cfg.INPUT.MIN_SIZE_TEST
    if scale <= 1:
        return
    sizes: Mapping[str, Any] = {
        "MIN_SIZE_TRAIN": tuple(_round_up(scale * x, 8) for x in cfg.INPUT.MIN_SIZE_TRAIN),
        "MAX_SIZE_TRAIN": _round_up(scale * cfg.INPUT.MAX_SIZE_TRAIN, 8),
        "MIN_SIZE_TEST": size,
        "MAX_SIZE_TEST": _round_up(scale * cfg.INPUT.MAX_SIZE_TEST, 8),
    }
    for key, value in sizes.items():
        yield from (f"INPUT.{key}", str(value))


def _round_up(value: float, step: int) -> int:
    return step * math.ceil(value / step)
