"""Configurations and batches that many tests need."""

from pathlib import Path

import pytest
import torch
from detectron2.structures import Boxes, Instances

from lite_focus_detr.config import load_config

#: The file under configs/_base_/family of each family.
FAMILIES = {
    "deformable": "deformable_detr",
    "deformable_refine": "deformable_detr_refine",
    "deformable_two_stage": "deformable_detr_two_stage",
    "dn_deformable": "dn_deformable_detr",
    "dino": "dino_detrex",
}
FOLDER = Path(__file__).resolve().parents[1] / "configs/_base_/family"

#: A small detector in the flavour of detrex, without dropout.
TINY = {
    "NUM_CLASSES": 7,
    "EMBED_DIM": 32,
    "NUM_HEADS": 4,
    "NORM_GROUPS": 8,
    "NUM_QUERIES": 20,
    "INVERSE_SIGMOID_EPS": 1e-3,
    "PROPOSAL_BOXES": "selected",
    "LOSS.CLASS_WEIGHT": 1.0,
    "LOSS.GIOU_EPS": 1e-6,
    "ENCODER.NUM_LAYERS": 2,
    "ENCODER.FFN_DIM": 64,
    "ENCODER.DROPOUT": 0.0,
    "DECODER.NUM_LAYERS": 2,
    "DECODER.FFN_DIM": 64,
    "DECODER.DROPOUT": 0.0,
}


@pytest.fixture
def tiny_config():
    """Make the configuration of a small detector of a family."""

    def make(family="dino", **changes):
        cfg = load_config(str(FOLDER / f"{FAMILIES[family]}.yaml"))
        groups = 3 if family == "dn_deformable" else 10
        settings = {**TINY, "DENOISING.NUM": groups, **changes}
        for key, value in settings.items():
            cfg.merge_from_list([f"MODEL.DETR.{key}", value])
        cfg.MODEL.LITE.NUM_BLOCKS = 1
        cfg.MODEL.LITE.LOW_FFN_DIM = 16
        cfg.MODEL.BACKBONE.NAME = "build_timm_backbone"
        cfg.MODEL.TIMM.NAME = "test_resnet"
        cfg.MODEL.DEVICE = "cpu"
        return cfg

    return make


@pytest.fixture
def make_batch():
    """Random images with the given numbers of boxes, as a data loader gives them."""

    def make(counts, sizes=((64, 96), (80, 64)), num_classes=7, seed=0):
        random = torch.Generator().manual_seed(seed)
        batch = []
        for count, (height, width) in zip(counts, sizes, strict=True):
            instances = Instances((height, width))
            corner = torch.rand(count, 2, generator=random) * 30
            side = torch.rand(count, 2, generator=random) * 25 + 5
            instances.gt_boxes = Boxes(torch.cat((corner, corner + side), 1))
            instances.gt_classes = torch.randint(num_classes, (count,), generator=random)
            image = torch.rand(3, height, width, generator=random) * 255
            batch.append({"image": image, "instances": instances})
        return batch

    return make
