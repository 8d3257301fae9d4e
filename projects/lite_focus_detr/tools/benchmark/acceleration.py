"""Models of transformers as they are and with the operators in place of their attention.

    lite-focus-detr benchmark accelerate [--model NAME ...] [--rounds 3]

The models have the sizes of their default configurations, which are those of published
checkpoints, random weights, and one image of noise of the size that is usual for each. "encoder" is
the encoder alone with the input that it has in the model. A training step is the forward pass with
the losses of a few boxes, and the backward pass.

Each runs once for its memory: the most that it needs beyond weights and input, in another process
that keeps no freed memory. Then both take turns in every round, so that noise on the machine
affects them alike. Times are medians over the rounds; the ratios say how many times the model as it
is takes as much time, processor time and memory as the accelerated one. "no sampling" is the
inference of the accelerated model with operators that return zeros: no operator that takes the same
arguments can make it faster than that.
"""

from __future__ import annotations

import argparse
import copy
import importlib
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple
from unittest import mock

import torch
from tabulate import tabulate
from torch import Tensor, nn

from ... import ops
from ...integrations import accelerate
from .measure import Measurement, measure, ratio_cells
from .peak_memory import Workload

KINDS = ("accelerated", "as it is")
#: The kind that bounds what operators can bring.
BOUND = "no sampling"
#: Words of a question to a model that takes text.
NUM_WORDS = 16
NUM_BOXES = 7


class Contender(NamedTuple):
    """A model of transformers."""

    kind: str  #: the name of its classes without Config and ForObjectDetection
    task: str  #: what its class is for
    image_size: tuple[int, int]  #: (height, width) in pixels
    encoder: str | None = None  #: name of the submodule that attends to all tokens
    trained: bool = False  #: measure a training step as well
    has_text: bool = False
    backbone: Mapping[str, Any] | None = None  #: a ResNet; None: that of the default configuration


_STAGES = ["stage1", "stage2", "stage3", "stage4"]
MODELS = {
    "deformable_detr": Contender(
        "DeformableDetr",
        "ForObjectDetection",
        (800, 1333),
        encoder="model.encoder",
        trained=True,
        backbone={"out_features": _STAGES[1:]},
    ),
    "mask2former": Contender(
        "Mask2Former",
        "ForUniversalSegmentation",
        (800, 1344),
        encoder="model.pixel_level_module.decoder.encoder",
        backbone={"out_features": _STAGES},
    ),
    "grounding_dino": Contender(
        "GroundingDino", "ForObjectDetection", (800, 1333), encoder="model.encoder", has_text=True
    ),
    "rt_detr": Contender("RTDetr", "ForObjectDetection", (640, 640)),
    "rf_detr": Contender("RfDetr", "ForObjectDetection", (560, 560)),
    "d_fine": Contender("DFine", "ForObjectDetection", (640, 640)),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    parser.add_argument(
        "--model", action="append", choices=tuple(MODELS), help="may be repeated; default: all"
    )
    parser.set_defaults(rounds=3)


def run(args: argparse.Namespace) -> None:
    """Measure and print one table per model."""
    try:
        importlib.import_module("transformers")
    except ImportError as error:
        raise SystemExit(f"{error}; `pip install transformers` brings the models") from error
    print(f"cpu, {torch.get_num_threads()} threads, median of {args.rounds} interleaved rounds")
    for name in args.model or MODELS:
        contender = MODELS[name]
        height, width = contender.image_size
        print(f"\n{name}, one image of {height}x{width}", flush=True)
        measured = measure(partial(make_workloads, contender), args.rounds, "cpu")
        print(table(measured), flush=True)


def make_model(contender: Contender, **settings: Any) -> nn.Module:
    """The model with random weights.

    Args:
        contender: which one.
        settings: of its configuration.
    """
    transformers = importlib.import_module("transformers")
    if contender.backbone is not None:
        backbone = transformers.ResNetConfig(**contender.backbone)
        settings = {"backbone_config": backbone, **settings}
    config = getattr(transformers, f"{contender.kind}Config")(**settings)
    torch.manual_seed(0)
    model: nn.Module = getattr(transformers, contender.kind + contender.task)(config)
    return model.eval()


def make_inputs(contender: Contender) -> dict[str, Tensor]:
    """One image of noise, and words for a model that takes them."""
    random = torch.Generator().manual_seed(0)
    inputs = {"pixel_values": torch.randn(1, 3, *contender.image_size, generator=random)}
    if contender.has_text:
        inputs["input_ids"] = torch.randint(1000, 2000, (1, NUM_WORDS), generator=random)
    return inputs


def make_workloads(
    contender: Contender, model: nn.Module | None = None
) -> dict[tuple[str, str], Workload]:
    """Functions that run a model once, by what they run and by the kind of its attention.

    Args:
        contender: the model.
        model: the same, if it has been built.
    """
    model = make_model(contender) if model is None else model
    inputs = make_inputs(contender)
    accelerated = copy.deepcopy(model)
    accelerate(accelerated)
    variants = dict(zip(KINDS, (accelerated, model), strict=True))
    kinds: dict[str, Callable[[nn.Module], Workload]] = {
        "inference": lambda variant: partial(infer, variant, inputs)
    }
    if contender.encoder is not None:
        name = contender.encoder
        kinds["encoder"] = lambda variant: _encoder_workload(variant, name, inputs)
    if contender.trained:
        kinds["training step"] = lambda variant: partial(learn, variant, inputs)
    workloads = {
        (what, kind): make(variant)
        for what, make in kinds.items()
        for kind, variant in variants.items()
    }
    bound = partial(infer_without_sampling, accelerated, inputs)
    return {**workloads, ("inference", BOUND): bound}


def infer(model: nn.Module, inputs: Mapping[str, Tensor]) -> object:
    """Run a model once."""
    model.eval()
    with torch.no_grad():
        return model(**inputs)


def infer_without_sampling(model: nn.Module, inputs: Mapping[str, Tensor]) -> object:
    """Run an accelerated model once with operators that do nothing."""
    with mock.patch.multiple(
        ops,
        multi_scale_deformable_attention=_no_sampling,
        fused_deformable_attention=_no_sampling,
    ):
        return infer(model, inputs)


def _no_sampling(value: Tensor, _: object, points: Tensor, *__: Tensor) -> Tensor:
    """Zeros in the shape of the result; both operators have ``points`` of shape (B, Q, ...)."""
    return value.new_zeros(*points.shape[:2], value.shape[2] * value.shape[3])


def learn(model: nn.Module, inputs: Mapping[str, Tensor]) -> None:
    """Run forward pass, losses and backward pass of a model once."""
    model.train()
    centers = torch.linspace(0.2, 0.8, NUM_BOXES)[:, None].expand(-1, 2)
    boxes = torch.cat([centers, torch.full_like(centers, 0.2)], 1)
    labels = [{"class_labels": torch.zeros(NUM_BOXES, dtype=torch.int64), "boxes": boxes}]
    model(**inputs, labels=labels).loss.backward()
    model.zero_grad()


def _encoder_workload(model: nn.Module, name: str, inputs: Mapping[str, Tensor]) -> Workload:
    """The encoder alone, with the arguments that it has in the model."""
    encoder = model.get_submodule(name)
    calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = []

    def keep(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        calls.append((args, kwargs))

    hook = encoder.register_forward_pre_hook(keep, with_kwargs=True)
    infer(model, inputs)
    hook.remove()
    ((args, kwargs),) = calls

    def encode() -> object:
        encoder.eval()
        with torch.no_grad():
            return encoder(*args, **kwargs)

    return encode


def table(measured: Mapping[tuple[str, str], Measurement]) -> str:
    """One row per workload and kind; ratios are to the accelerated model."""
    headers = ["", "attention", "ms", "ratio", "CPU ratio", "peak MB", "ratio"]
    rows = [
        [name, kind, *ratio_cells(measurement, measured[name, KINDS[0]])]
        for (name, kind), measurement in measured.items()
    ]
    return str(tabulate(rows, headers=headers, floatfmt=".2f"))
