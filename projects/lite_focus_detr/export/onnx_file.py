"""Detectors as ONNX files, each compared with its detector before it is written."""

from __future__ import annotations

import copy
import dataclasses
import importlib.util
import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from .. import ops
from ..modeling.meta_arch import DetectionTransformer
from .comparison import Comparison, format_comparisons
from .detector import ImageInput, TensorDetector
from .program import export_program

#: How attention samples its maps: by GridSample, by Gather, or in this project's kernels.
Dialect = Literal["standard", "gather", "native"]
DIALECTS = get_args(Dialect)
if TYPE_CHECKING:
    import onnx_ir as ir

PACKAGES = ("onnx", "onnxscript", "onnxruntime")
#: What a file says of itself, as JSON.
METADATA_KEY = "lite_focus_detr"
FILE_OUTPUTS = ("boxes", "scores", "labels")
#: Of the compared images.
BATCH_SIZES = (1, 2)


def export_onnx(
    model: DetectionTransformer,
    path: str | os.PathLike[str],
    *,
    dialect: Dialect = "standard",
    image_input: ImageInput | None = None,
    images: Sequence[Tensor] | None = None,
    class_names: Sequence[str] | None = None,
) -> list[Comparison]:
    """Write a detector as an ONNX file that ONNX Runtime runs like PyTorch runs the detector.

    The file has the input ``images`` and the outputs ``boxes``, ``scores`` and ``labels`` of
    :class:`DetectorTensors`; batch, height and width are dynamic. It is run on images of three
    sizes in batches of one and two first. If logits or boxes differ by more than 1e-4, or a
    detection differs, nothing is written, and a file that was there is removed.

    Args:
        model: the detector, in float32; it is not changed.
        path: of the file, in a folder that exists.
        dialect: how attention samples its maps: ``standard``, by GridSample; ``gather``, by Gather,
            for runtimes whose GridSample is wrong or slow; ``native``, in this project's kernels,
            for ONNX Runtime with :func:`register_native_attention`.
        image_input: how the file takes images; by default float32 (B, 3, H, W), resized by the
            caller.
        images: what to compare on, each (3, H, W) with 0 to 255 in ``INPUT.FORMAT``, resized to
            the three sizes; by default generated ones.
        class_names: of each class, which the file says of itself; None: they are not known.

    Returns:
        the comparison of each batch.

    Raises:
        ValueError: the file would not be right, there is another number of names, the backbone is
            a Swin Transformer, a package is missing, or the native operators are needed and not
            there.
    """
    require_packages()
    from .conversion import convert_program
    from .native_attention import unavailable_reason
    from .resize import resize_inputs

    image_input = image_input or ImageInput()
    if not Path(path).parent.is_dir():
        raise ValueError(f"cannot write {path}: there is no folder {Path(path).parent}")
    if dialect != "standard" and ops.backend("cpu") == "reference":
        reason = ops.unavailable_reason("cpu")
        raise ValueError(f"the dialect {dialect} needs the native operators: {reason}")
    if dialect == "native" and (reason := unavailable_reason()) is not None:
        raise ValueError(f"a file of the dialect native cannot be checked: {reason}")
    model = copy.deepcopy(model).to("cpu").eval()
    # The sizes of a resized image are no expression that torch.export reasons about.
    resizes = image_input.resize is not None
    traced_input = ImageInput(normalized=image_input.normalized) if resizes else image_input
    traced = convert_program(export_program(model, traced_input))
    if resizes:
        resize_inputs(traced, image_input)
    detector = TensorDetector(model, image_input)
    return write_checked(traced, detector, Path(path), dialect, images, class_names)


def write_checked(
    traced: ir.Model,
    detector: TensorDetector,
    path: Path,
    dialect: Dialect,
    images: Sequence[Tensor] | None = None,
    class_names: Sequence[str] | None = None,
) -> list[Comparison]:
    """Write the file of a converted program if it does what the detector does.

    Args:
        traced: of :func:`convert_program`; it is changed.
        detector: what was traced, on the CPU, in evaluation mode.
        path: see :func:`export_onnx`.
        dialect: likewise.
        images: likewise.
        class_names: likewise.

    Raises:
        ValueError: it does something else, or there is another number of names.
    """
    from .conversion import name_interface, write, write_attention
    from .verification import compare

    path.unlink(missing_ok=True)
    if class_names is not None and len(class_names) != detector.num_classes:
        raise ValueError(
            f"there are {len(class_names)} names of classes, and the detector has "
            f"{detector.num_classes}"
        )
    write_attention(traced, dialect)
    name_interface(traced)
    comparisons = compare(traced, detector, make_batches(detector, images))
    if not all(x.passed for x in comparisons):
        table = format_comparisons(comparisons)
        raise ValueError(
            f"ONNX Runtime does not give the detector's results; {path} is not written\n{table}"
        )
    del traced.graph.outputs[len(FILE_OUTPUTS) :]
    contents = {
        "dialect": dialect,
        "input_format": detector.model.input_format,
        "num_classes": detector.num_classes,
        "class_names": None if class_names is None else list(class_names),
        **dataclasses.asdict(detector.image_input),
    }
    traced.metadata_props[METADATA_KEY] = json.dumps(contents)
    write(traced, path)
    return comparisons


def make_batches(detector: TensorDetector, images: Sequence[Tensor] | None) -> Iterable[Tensor]:
    """Batches to compare on: of three sizes, one of them odd, and of one and two images.

    Args:
        detector: takes them.
        images: each (3, H, W) with 0 to 255; None: generated.
    """
    side, resize = detector.smallest_side, detector.image_input.resize
    # What is resized is larger and smaller than it shall be.
    largest = side * 2 if resize is None else max(side * 2, resize[0] * 5 // 4)
    for size in ((side, side * 3 // 2), (side * 2, side * 3 // 2 + 5), (largest + 5, largest)):
        for batch in BATCH_SIZES:
            yield detector.encode(_make_images(size, batch, images))


def _make_images(size: tuple[int, int], batch: int, images: Sequence[Tensor] | None) -> Tensor:
    """Images (B, 3, H, W) with 0 to 255, the given ones or coloured clouds."""
    if images is None:
        random = torch.Generator().manual_seed(batch)
        coarse = torch.rand(batch, 3, 6, 8, generator=random) * 255
        return F.interpolate(coarse, size, mode="bilinear")
    chosen = [images[i % len(images)].float()[None] for i in range(batch)]
    return torch.cat([F.interpolate(x, size, mode="bilinear") for x in chosen])


def require_packages() -> None:
    """Raise a ValueError unless the packages of ONNX are installed."""
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise ValueError(
            f"not installed: {', '.join(missing)}; pip install 'lite-focus-detr[export]'"
        )
