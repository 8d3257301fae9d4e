"""An exported detector in the place of the one it was made of."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from detectron2.modeling.postprocessing import detector_postprocess
from detectron2.structures import Boxes, Instances
from torch import Tensor, nn

from .onnx_file import require_packages


class OnnxDetector(nn.Module):
    """Detects with ONNX Runtime in what detectron2's data loaders give, one image at a time."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """
        Args:
            path: of a file of :func:`export_onnx`, for images that are not normalised.

        Raises:
            ValueError: it is no such file, or a package is missing.
        """
        super().__init__()
        require_packages()
        from .runtime import open_file, read_contents

        if not os.path.isfile(path):
            raise ValueError(f"there is no file {path}")
        self.session = open_file(os.fspath(path))
        self.contents = read_contents(self.session)
        if self.contents.get("normalized", True):
            raise ValueError(f"{path} does not say how it takes images, or takes normalised ones")
        if "num_classes" not in self.contents:
            raise ValueError(f"{path} does not say how many classes it has: export it anew")

    @property
    def input_format(self) -> str:
        """Order of the channels of its images."""
        return str(self.contents["input_format"])

    @property
    def resizes(self) -> bool:
        """Whether it takes images as they are, and resizes them itself."""
        return self.contents.get("resize") is not None

    @property
    def num_classes(self) -> int:
        """How many classes it tells apart."""
        return int(self.contents["num_classes"])

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """Of each class, as far as the export knew them."""
        names = self.contents.get("class_names")
        return None if names is None else tuple(map(str, names))

    def forward(self, batched_inputs: Sequence[Mapping[str, Any]]) -> list[dict[str, Instances]]:
        """Detect as :meth:`DetectionTransformer.inference` does."""
        return [{"instances": self.detect(x)} for x in batched_inputs]

    def detect(self, inputs: Mapping[str, Any]) -> Instances:
        """Detections in one image, scaled to its ``height`` and ``width``."""
        image: Tensor = inputs["image"]
        images = image[None] if self.contents["layout"] == "chw" else image.permute(1, 2, 0)[None]
        images = images.to(getattr(torch, self.contents["dtype"]))
        results = self.session.run(None, {"images": images.numpy()})
        boxes, scores, labels = (torch.from_numpy(x[0]) for x in results)
        found = Instances(tuple(image.shape[1:]))
        found.pred_boxes, found.scores, found.pred_classes = Boxes(boxes), scores, labels
        height, width = found.image_size
        size = inputs.get("height", height), inputs.get("width", width)
        return detector_postprocess(found[scores > 0], *size)
