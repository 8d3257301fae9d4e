"""Prints which share of a dense encoder layer's time its matrix products would take alone.

python dev/measure_layer_rate.py [--config-file NAME] [--rounds 7] [--threads 2]

The layer is the first one of an optimised detector, as it works on an image of 800x1333, the
products are oneDNN's, of matrices of the same shapes and nothing else. They take turns; the times
are medians.
"""

# ruff: noqa: T201
from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from lite_focus_detr import model_zoo, optimize_for_inference
from lite_focus_detr.modeling.meta_arch import autocast
from lite_focus_detr.optimization.detector import has_bfloat16
from lite_focus_detr.optimization.packed_layers import PackedLinear
from lite_focus_detr.tools.benchmark.measure import processor

IMAGE_SIZE = (800, 1333)


class Reached(Exception):
    """The layer has its arguments: what follows is not needed."""


def arguments_of(model: nn.Module, layer: nn.Module) -> tuple[Any, Any]:
    """The arguments that a layer of a detector gets for an image."""
    found: list[tuple[Any, Any]] = []

    def keep(_: nn.Module, args: Any, kwargs: Any) -> None:
        found.append((args, kwargs))
        raise Reached

    hook = layer.register_forward_pre_hook(keep, with_kwargs=True)
    try:
        model([{"image": torch.zeros(3, *IMAGE_SIZE, dtype=torch.uint8)}])
    except Reached:
        pass
    finally:
        hook.remove()
    return found[0]


def products_of(
    layer: nn.Module, tokens: int, dtype: torch.dtype
) -> list[tuple[nn.Module, Tensor]]:
    """The linear layers in a layer, packed, each with an input."""
    linears = [x for x in layer.modules() if isinstance(x, nn.Linear)]
    return [(PackedLinear(x, dtype), torch.randn(tokens, x.in_features).to(dtype)) for x in linears]


def timed(function: Callable[[], object]) -> float:
    """Seconds of a call."""
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def multiply(products: list[tuple[nn.Module, Tensor]]) -> None:
    """Compute the products, one after the other."""
    for product, x in products:
        product(x)


@torch.inference_mode()
def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config-file", default="dino_r50_36ep", help="default %(default)s")
    parser.add_argument("--rounds", type=int, default=7, help="default %(default)s")
    parser.add_argument("--threads", type=int, default=2, help="default %(default)s")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    print(f"{processor()}, {args.threads} threads")
    model = model_zoo.get(args.config_file).cpu().eval()
    for dtype in (torch.float32, *([torch.bfloat16] if has_bfloat16() else [])):
        optimized = optimize_for_inference(model, dtype)
        layer = optimized.encoder.layers[0]
        inputs, options = arguments_of(optimized, layer)
        tokens = sum(-(-IMAGE_SIZE[0] // s) * -(-IMAGE_SIZE[1] // s) for s in (8, 16, 32, 64))
        products = products_of(model.encoder.layers[0], tokens, dtype)
        whole, alone = [], []
        run_layer = partial(layer, *inputs, **options)
        for _ in range(args.rounds + 1):
            with autocast(optimized.device, optimized.inference_dtype):
                whole.append(timed(run_layer))
            alone.append(timed(partial(multiply, products)))
        seconds = [statistics.median(x[1:]) for x in (whole, alone)]
        operations = sum(2 * x.numel() * product.out_features for product, x in products)
        print(
            f"{dtype}: layer {1e3 * seconds[0]:.0f} ms, products alone {1e3 * seconds[1]:.0f} ms, "
            f"{operations / seconds[1] / 1e9:.0f} GFLOP/s; rate of the layer "
            f"{seconds[1] / seconds[0]:.2f} of that"
        )


if __name__ == "__main__":
    main()
