"""A detector as a function of a tensor of images, which is what is exported."""

from __future__ import annotations

import dataclasses
from typing import Literal, NamedTuple, TypeVar

import torch
from detectron2.structures import ImageList
from torch import Tensor, nn
from torch.nn import functional as F

from ..data.dataset_mapper import RESIZES
from ..modeling.meta_arch import DetectionTransformer
from ..modeling.postprocess import COCO_IDS, best_detections

#: A number, or the name of one that is dynamic.
Side = TypeVar("Side", int, str)


@dataclasses.dataclass(frozen=True)
class ImageInput:
    """How an exported detector takes its images.

    All images of a batch have one size. Channels are in the order of ``INPUT.FORMAT``.
    """

    #: (B, 3, H, W), or (B, H, W, 3) as image files are decoded.
    layout: Literal["chw", "hwc"] = "chw"
    dtype: Literal["float32", "uint8"] = "float32"  #: 0 to 255 in both
    normalized: bool = False  #: the caller subtracts ``PIXEL_MEAN`` and divides by ``PIXEL_STD``
    #: The shorter side that images get, and the most for the longer one, as
    #: ``INPUT.MIN_SIZE_TEST`` and ``INPUT.MAX_SIZE_TEST`` say; None: the caller resizes them.
    resize: tuple[int, int] | None = None
    resize_rounding: Literal["nearest", "down"] = "nearest"  #: ``INPUT.RESIZE_ROUNDING``

    def __post_init__(self) -> None:
        if self.resize is not None and min(self.resize) <= 0:
            raise ValueError(f"resize is {self.resize}; both sides must be positive")
        if self.normalized and self.dtype == "uint8":
            raise ValueError("normalised images are float32, not uint8")

    def shape(self, batch: Side, height: Side, width: Side) -> tuple[Side | int, ...]:
        """Shape of a batch."""
        return (batch, 3, height, width) if self.layout == "chw" else (batch, height, width, 3)


class DetectorTensors(NamedTuple):
    """What an exported detector returns: its detections, and what they are checked by."""

    boxes: Tensor  #: (B, K, 4), (x0, y0, x1, y1) in pixels of the input
    scores: Tensor  #: (B, K), best first
    labels: Tensor  #: (B, K) int64
    pred_logits: Tensor  #: (B, Q, C) of all queries
    pred_boxes: Tensor  #: (B, Q, 4), (cx, cy, w, h) in [0, 1]


class TensorDetector(nn.Module):
    """The inference of a detector from a tensor of images to tensors."""

    def __init__(self, model: DetectionTransformer, image_input: ImageInput) -> None:
        """
        Args:
            model: the detector; its parameters are not copied.
            image_input: how images come.
        """
        super().__init__()
        self.model = model
        self.image_input = image_input

    @property
    def smallest_side(self) -> int:
        """Of an image, in pixels: two cells of the coarsest level."""
        return 2 * self.model.neck.strides[-1]

    @property
    def num_classes(self) -> int:
        """How many classes the labels tell apart."""
        return len(COCO_IDS) if self.model.coco_id_rows else self.model.heads.num_classes

    def encode(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W) with 0 to 255 as the detector takes them."""
        if self.image_input.normalized:
            images = (images - self.model.pixel_mean) / self.model.pixel_std
        if self.image_input.dtype == "uint8":
            images = images.round().to(torch.uint8)
        return images if self.image_input.layout == "chw" else images.permute(0, 2, 3, 1)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Detect in a batch of images (B, 3, H, W), or as ``image_input`` says.

        Returns:
            the fields of :class:`DetectorTensors`, as a tuple that programs know without this
            package.
        """
        model = self.model
        if self.image_input.layout == "hwc":
            images = images.permute(0, 3, 1, 2)
        images = images.to(model.pixel_mean.dtype)
        if not self.image_input.normalized:
            images = (images - model.pixel_mean) / model.pixel_std
        height, width = images.shape[2:]
        if self.image_input.resize is not None:
            resize = RESIZES[self.image_input.resize_rounding]
            size = resize.get_output_shape(height, width, *self.image_input.resize)
            images = F.interpolate(images, size, mode="bilinear", antialias=True)
        batch = ImageList(images, [tuple(images.shape[2:])])
        outputs = model.forward_outputs(batch)
        last = outputs.layers[-1]
        options = (model.max_detections, model.coco_id_rows, outputs.padding_mask)
        found = best_detections(last, *options)
        x_side, y_side = (images.new_full((2,), size) for size in (width, height))
        sides = torch.stack((x_side, y_side), -1).flatten()
        return found.boxes * sides, found.scores, found.labels, last.logits, last.boxes
