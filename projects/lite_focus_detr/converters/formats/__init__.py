"""Published formats, one module for each repository that they come from."""

from __future__ import annotations

from ..checkpoint_format import CheckpointFormat
from .deformable_detr import DEFORMABLE_DETR
from .detrex import DETREX
from .dino import DINO
from .efficientnet_lite import EFFICIENTNET_LITE0
from .focus_detr import FOCUS_DETR
from .hugging_face import HUGGING_FACE
from .lite_dino import LITE_DINO
from .mmdetection import MMDET_DEFORMABLE_DETR, MMDET_DINO
from .resnet import CAFFE2_RESNET, DETECTRON2_RESNET, TORCHVISION_RESNET
from .sparse_detr import SPARSE_DETR
from .swin import SWIN, TORCHVISION_SWIN

__all__ = ["PUBLISHED_FORMATS"]

#: The first that recognises a file converts it: special before general.
PUBLISHED_FORMATS: tuple[CheckpointFormat, ...] = (
    FOCUS_DETR,
    SPARSE_DETR,
    DETREX,
    LITE_DINO,
    DINO,
    DEFORMABLE_DETR,
    HUGGING_FACE,
    MMDET_DINO,
    MMDET_DEFORMABLE_DETR,
    TORCHVISION_RESNET,
    DETECTRON2_RESNET,
    CAFFE2_RESNET,
    TORCHVISION_SWIN,
    SWIN,
    EFFICIENTNET_LITE0,
)
