"""Configurations and batches that many tests need."""

import pytest
import torch
from detectron2.config import get_cfg
from detectron2.structures import Boxes, Instances

from lite_focus_detr import add_lite_focus_detr_config

#: What makes each family out of the defaults.
FAMILIES = {
    "deformable": {},
    "deformable_refine": {"BOX_REFINE": True, "SHARE_HEADS": False},
    "deformable_two_stage": {
        "BOX_REFINE": True,
        "SHARE_HEADS": False,
        "QUERY_SELECTION": "two_stage",
        "CLASS_AGNOSTIC_PROPOSALS": True,
    },
    "dn_deformable": {
        "BOX_REFINE": True,
        "SHARE_HEADS": False,
        "REFERENCE": "box",
        "DECODER.POSITION_SCALE": True,
        "DENOISING.TYPE": "plain",
        "DENOISING.NUM": 3,
        "DENOISING.LABEL_NOISE": 0.2,
        "DENOISING.BOX_NOISE": 0.4,
    },
    "dino": {
        "BOX_REFINE": True,
        "LOOK_FORWARD_TWICE": True,
        "SHARE_HEADS": False,
        "QUERY_SELECTION": "mixed",
        "DECODER.FINAL_NORM": True,
        "DENOISING.TYPE": "contrastive",
        "DENOISING.NUM": 10,
        "DENOISING.LABEL_NOISE": 0.25,
        "DENOISING.BOX_NOISE": 1.0,
    },
}


@pytest.fixture
def tiny_config():
    """Make the configuration of a small detector of a family, without dropout."""

    def make(family="dino", **changes):
        cfg = get_cfg()
        add_lite_focus_detr_config(cfg)
        detr = {
            "NUM_CLASSES": 7,
            "EMBED_DIM": 32,
            "NUM_HEADS": 4,
            "NORM_GROUPS": 8,
            "NUM_QUERIES": 20,
            "INVERSE_SIGMOID_EPS": 1e-3,
            "LOSS.CLASS_WEIGHT": 1.0,
            "ENCODER.NUM_LAYERS": 2,
            "ENCODER.FFN_DIM": 64,
            "ENCODER.DROPOUT": 0.0,
            "DECODER.NUM_LAYERS": 2,
            "DECODER.FFN_DIM": 64,
            "DECODER.DROPOUT": 0.0,
            **FAMILIES[family],
            **changes,
        }
        for key, value in detr.items():
            cfg.merge_from_list([f"MODEL.DETR.{key}", value])
        cfg.MODEL.META_ARCHITECTURE = "DeformableDETR"
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
