"""The detectors that take part in the measurement of whole models."""

from __future__ import annotations

import importlib
import importlib.util
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from detectron2.config import CfgNode
from detectron2.structures import Boxes, Instances
from torch import Tensor

from ...modeling import DetectionTransformer
from ...optimization import optimize_for_inference
from ...optimization.detector import has_bfloat16, has_int8
from . import acceleration
from .encoders import build_detector
from .measure import bind_operators
from .peak_memory import Workload

#: Boxes of the image: about as many as COCO's images have on average.
NUM_BOXES = 7
Name = tuple[str, str]  #: configuration, file or library, and the kind of it


class Contender(NamedTuple):
    """A detector that takes part."""

    workload: Workload
    model: DetectionTransformer | None = None  #: whose parts are measured apart


def make_contenders(
    configs: Mapping[str, CfgNode],
    kinds: Sequence[str],
    files: Sequence[str],
    image_size: Sequence[int],
    device: str,
    training: bool,
) -> dict[Name, Contender]:
    """All that take part, by name and kind.

    Args:
        configs: of detectors, by the names to show.
        kinds: of operators, see :func:`kinds_of_operators`.
        files: exported detectors, for inference on the CPU.
        image_size: (height, width) in pixels.
        device: where to run.
        training: training steps in the place of inference.
    """
    inputs = make_inputs(image_size, torch.device(device))
    contenders: dict[Name, Contender] = {}
    names = short_names(configs)
    for config, cfg in configs.items():
        model = build_detector(cfg, device)
        for kind in kinds:
            workload = bind_operators(detector_workload(model, inputs, training), kind)
            contenders[names[config], kind] = Contender(workload, None if training else model)
        if not training:
            for kind, optimized in optimized_variants(model).items():
                workload = detector_workload(optimized, inputs, train=False)
                contenders[names[config], kind] = Contender(workload, optimized)
    if torch.device(device).type == "cpu":
        contenders |= peers(image_size, training)
        for path, name in short_names(files if not training else ()).items():
            contenders |= exported(path, inputs[0]["image"], name)
    return contenders


def optimized_variants(model: DetectionTransformer) -> dict[str, DetectionTransformer]:
    """What ``optimize_for_inference`` makes of a detector, by kind."""
    variants = {"optimized": optimize_for_inference(model)}
    if model.device.type != "cpu" or has_bfloat16():
        variants["bfloat16"] = optimize_for_inference(model, torch.bfloat16)
    if model.device.type == "cpu" and has_int8():
        variants["int8"] = optimize_for_inference(model, torch.int8)
    return variants


def peers(image_size: Sequence[int], training: bool) -> dict[Name, Contender]:
    """Detectors of other libraries that are installed, with the same work."""
    if importlib.util.find_spec("transformers") is None:
        return {}
    height, width = image_size
    peer = acceleration.MODELS["deformable_detr"]._replace(image_size=(height, width))
    work = acceleration.learn if training else acceleration.infer
    workload = partial(work, acceleration.make_model(peer), acceleration.make_inputs(peer))
    return {("deformable_detr_r50", "transformers"): Contender(workload)}


def short_names(paths: Iterable[str]) -> dict[str, str]:
    """What to show of each path or name of a configuration: its last part, where no other has it.

    Args:
        paths: to be told apart.
    """
    known = dict.fromkeys(paths)
    last = Counter(Path(path).name for path in known)
    return {path: name if last[name := Path(path).name] == 1 else path for path in known}


def exported(path: str, image: Tensor, name: str | None = None) -> dict[Name, Contender]:
    """An exported file in the runtimes that are installed and can run it.

    Args:
        path: of a file with the default input of ``export_model``.
        image: (3, H, W) with 0 to 255.
        name: to show; None: the last part of the path.

    Raises:
        ValueError: ONNX Runtime cannot run it.
    """
    name = name or Path(path).name
    images = {"images": image[None].float().numpy()}
    contenders: dict[Name, Contender] = {}
    needs_kernels = False
    if importlib.util.find_spec("onnxruntime") is not None:
        runtime = importlib.import_module("lite_focus_detr.export.runtime")
        session = runtime.open_file(path)
        needs_kernels = runtime.read_contents(session).get("dialect") == "native"
        workload = partial(session.run, None, images)
        contenders[name, "onnxruntime"] = Contender(workload)
    if importlib.util.find_spec("openvino") is not None and not needs_kernels:
        openvino = importlib.import_module("openvino")
        options = {"INFERENCE_NUM_THREADS": torch.get_num_threads()}
        compiled = openvino.Core().compile_model(path, "CPU", options)
        contenders[name, "openvino"] = Contender(partial(compiled, images))
    return contenders


def make_inputs(image_size: Sequence[int], device: torch.device) -> list[dict[str, Any]]:
    """One image of noise with boxes along its diagonal, as a detector takes it."""
    height, width = image_size
    random = torch.Generator().manual_seed(0)
    image = torch.randint(256, (3, height, width), dtype=torch.uint8, generator=random)
    centers = torch.linspace(0.2, 0.8, NUM_BOXES)[:, None]
    corners = torch.cat([centers + offset for offset in (-0.1, -0.1, 0.1, 0.1)], 1)
    instances = Instances((height, width))
    instances.gt_boxes = Boxes(corners * torch.tensor([width, height, width, height]))
    instances.gt_classes = torch.zeros(NUM_BOXES, dtype=torch.int64)
    return [{"image": image.to(device), "instances": instances.to(device)}]


def detector_workload(
    model: DetectionTransformer, inputs: Sequence[Mapping[str, Any]], train: bool
) -> Workload:
    """A function that runs a detector once; ``train`` with gradients, gone afterwards."""

    def infer() -> object:
        model.eval()
        with torch.inference_mode():
            return model(inputs)

    def learn() -> None:
        model.train()
        losses = model(inputs)
        assert isinstance(losses, dict)
        torch.autograd.backward(list(losses.values()))
        model.zero_grad()

    return learn if train else infer
