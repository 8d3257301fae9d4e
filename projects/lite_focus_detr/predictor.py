"""A trained detector as a function of an image."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, overload

import numpy as np
import numpy.typing as npt
import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, Metadata, MetadataCatalog
from detectron2.modeling import build_model
from detectron2.structures import Instances
from PIL import Image

from . import model_zoo
from .config import ConfigFile
from .data import DetrDatasetMapper, convert_image, register_datasets
from .engine import DetrCheckpointer, describe_checkpoint, find_weights
from .engine.detector_record import num_classes
from .optimization import optimize_as_configured

#: What a detector finds objects in: a path, an array (H, W, 3) uint8 in BGR order, or Pillow's.
ImageLike = str | os.PathLike[str] | npt.NDArray[np.uint8] | Image.Image


def load_inference_config(config_file: ConfigFile, options: Sequence[str] = ()) -> CfgNode:
    """Read a configuration, take the CPU where there is no GPU, and register its data sets.

    Args:
        config_file: path of a yaml file, name in the model zoo, or what a checkpoint holds.
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
    """Detects objects in images, with the preprocessing of the evaluation.

    Attributes:
        cfg: the configuration.
        model: the detector, in evaluation mode.
        mapper: makes the detector's input of a record with ``file_name``.
        description: what the checkpoint says about itself.
        class_names: of ``pred_classes``; None where neither the checkpoint nor a data set that is
            at hand knows them.
        threshold: the score that maximises F1 on the evaluation set, if the checkpoint knows it.
        metadata: ``thing_classes``, as detectron2's ``Visualizer`` and our pictures take them.
    """

    def __init__(
        self,
        weights: str | os.PathLike[str] | CfgNode,
        *,
        config: ConfigFile | CfgNode | None = None,
        opts: Sequence[str] = (),
        device: str | None = None,
        trust_imports: bool = False,
    ) -> None:
        """Build a model and load its weights.

        Args:
            weights: checkpoint file, or whatever ``MODEL.WEIGHTS`` takes; or, as detectron2's
                ``DefaultPredictor`` does, a complete configuration in which it names one.
            config: a configuration, its file or its name in the model zoo; None takes the one
                that the checkpoint holds. Published files hold none.
            opts: ``KEY VALUE ...``, changes of a configuration that is read here.
            device: replaces ``MODEL.DEVICE``; None takes the CPU where there is no GPU.
            trust_imports: import the modules that the configuration in the checkpoint names, which
                runs their code.

        Raises:
            FileNotFoundError: there are no such weights.
            ValueError: there is no configuration, something in it is wrong, or the file does not
                fit the whole model.
        """
        if isinstance(weights, CfgNode):
            config, weights = weights, weights.MODEL.WEIGHTS
        if not weights:
            raise ValueError("MODEL.WEIGHTS is empty; name a checkpoint")
        path = find_weights(os.fspath(weights))
        self.description = describe_checkpoint(path)
        if config is None:
            config = self.description.saved_config(trust_imports=trust_imports)
        cfg = config.clone() if isinstance(config, CfgNode) else model_zoo.get_config(config, opts)
        self.cfg = _for_inference(cfg, path, device)
        self.model = build_model(self.cfg).eval()
        DetrCheckpointer(self.model, cfg=self.cfg, for_inference=True).load(path)
        self.model = optimize_as_configured(self.model, self.cfg)
        self.mapper = DetrDatasetMapper(self.cfg, is_train=False)
        self.class_names = self._class_names()
        self.threshold = self.description.threshold

    def _class_names(self) -> tuple[str, ...] | None:
        names: Sequence[str] | None = self.description.class_names
        if names is None:
            with suppress(ValueError, OSError):  # the data need not be there
                register_datasets(self.cfg)
                names = load_metadata(self.cfg).get("thing_classes")
        fitting = names is not None and len(names) == num_classes(self.cfg)
        return tuple(names) if names is not None and fitting else None

    @property
    def metadata(self) -> Metadata:
        """See the class."""
        names = {} if self.class_names is None else {"thing_classes": list(self.class_names)}
        return Metadata(name=os.path.basename(self.description.file), **names)

    @overload
    def __call__(self, image: ImageLike) -> Instances: ...

    @overload
    def __call__(self, image: Sequence[ImageLike]) -> list[Instances]: ...

    @torch.inference_mode()
    def __call__(self, image: ImageLike | Sequence[ImageLike]) -> Instances | list[Instances]:
        """Detect objects in an image, or in each of several.

        Args:
            image: path of a file, array (H, W, 3) of uint8 in BGR order as OpenCV reads it,
                ``PIL.Image``, or a list of these. Files and Pillow's images are turned upright by
                their EXIF tag.

        Returns:
            on the CPU: ``pred_boxes`` in pixels of the image, ``scores`` in [0, 1] and
            ``pred_classes``; a list of them for a list.

        Raises:
            RuntimeError: a file cannot be read.
            ValueError: an array has another shape or type.
        """
        if isinstance(image, (list, tuple)):
            return [self._detect(one) for one in image]
        return self._detect(image)

    def _detect(self, image: Any) -> Instances:
        outputs: list[dict[str, Instances]] = self.model([self._read(image)])
        return outputs[0]["instances"].to("cpu")

    def _read(self, image: Any) -> dict[str, Any]:
        """The detector's input."""
        if isinstance(image, (str, os.PathLike)):
            record: dict[str, Any] = self.mapper({"file_name": os.fspath(image)})
            return record
        if isinstance(image, Image.Image):
            return self.mapper.map_array(convert_image(image, self.cfg.INPUT.FORMAT))
        _require_bgr(image)
        if self.cfg.INPUT.FORMAT == "RGB":
            image = image[..., ::-1]
        return self.mapper.map_array(np.ascontiguousarray(image))


def _for_inference(cfg: CfgNode, weights: str, device: str | None) -> CfgNode:
    cfg.defrost()
    cfg.MODEL.WEIGHTS = weights
    if device is not None:
        cfg.MODEL.DEVICE = device
    elif not torch.cuda.is_available():
        cfg.MODEL.DEVICE = "cpu"
    cfg.freeze()
    return cfg


def _require_bgr(image: object) -> None:
    if not isinstance(image, np.ndarray):
        raise ValueError(
            f"an image is a {type(image).__name__}; give a path, a NumPy array (H, W, 3) of uint8 "
            "in BGR order, or an image of Pillow"
        )
    if image.dtype != np.uint8:
        raise ValueError(
            f"an image is an array of {image.dtype}; give uint8 with values from 0 to 255"
        )
    if image.ndim == 3 and image.shape[2] == 3 and image.size:
        return
    remedy = "or a list of such arrays"
    if image.ndim == 2:
        remedy = "of a grey one np.repeat(image[..., None], 3, axis=2)"
    elif image.shape[-1] == 4:
        remedy = "of BGRA image[..., :3]"
    raise ValueError(f"an image has the shape {image.shape}; give (H, W, 3) in BGR, {remedy}")
