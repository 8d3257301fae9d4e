"""Export a trained detector as an ONNX file that is checked before it is written.

    lite-focus-detr export --weights PATH [--config-file NAME_OR_PATH] \
        --output model.onnx [--dialect standard|gather|native] [--images IMAGE ...] \
        [--layout hwc] [--dtype uint8] [--normalized] [--resize] [--opts KEY VALUE ...]

The file takes ``images``, by default float32 (B, 3, H, W) with 0 to 255 in the order of channels of
``INPUT.FORMAT``, resized by the caller unless --resize, and returns ``boxes`` (B, K, 4) as
(x0, y0, x1, y1) in pixels of the input, ``scores`` (B, K) and ``labels`` (B, K). Batch, height and
width are dynamic.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from detectron2.config import CfgNode
from torch import Tensor

from ..data import DetrDatasetMapper
from ..engine import user_errors
from ..export import DIALECTS, ImageInput, export_onnx, format_comparisons
from ..predictor import Predictor
from .command_line import add_config_arguments, inference_config


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command. Exits with one line on stderr if something of the user's is wrong, or if the
    exported model is not the same as the detector; nothing is written then."""
    args = _parser().parse_args(arguments)
    with user_errors():
        # Packed weights cannot be exported.
        args.opts = [*args.opts, "TEST.OPTIMIZE", "none"]
        cfg = inference_config(args)
        resize = (cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST) if args.resize else None
        way = (args.layout, args.dtype, args.normalized, resize, cfg.INPUT.RESIZE_ROUNDING)
        image_input = ImageInput(*way)
        images = read_images(cfg, args.images)
        predictor = Predictor(cfg)
        options = {"dialect": args.dialect, "image_input": image_input, "images": images}
        names = predictor.class_names
        comparisons = export_onnx(predictor.model, args.output, class_names=names, **options)
    print("Largest deviations of ONNX Runtime from PyTorch:")
    print(format_comparisons(comparisons))
    print(f"Wrote {args.output}")


def read_images(cfg: CfgNode, paths: Sequence[str]) -> list[Tensor] | None:
    """Image files (3, H, W) as the evaluation reads and resizes them; None if there are none.

    Raises:
        RuntimeError: a file cannot be read.
    """
    mapper = DetrDatasetMapper(cfg, is_train=False)
    images: list[Tensor] = [mapper({"file_name": path})["image"] for path in paths]
    return images or None


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="lite-focus-detr export", description="Export a detector as a checked ONNX file."
    )
    parser.add_argument("--output", required=True, metavar="FILE", help="the file to write")
    parser.add_argument(
        "--dialect",
        choices=DIALECTS,
        default="standard",
        help="attention by GridSample (standard), by Gather, or in this project's kernels (native)",
    )
    parser.add_argument(
        "--layout", choices=("chw", "hwc"), default="chw", help="of the images: B3HW or BHW3"
    )
    parser.add_argument(
        "--dtype", choices=("float32", "uint8"), default="float32", help="of the images"
    )
    parser.add_argument(
        "--normalized", action="store_true", help="the caller subtracts PIXEL_MEAN and so on"
    )
    parser.add_argument(
        "--resize", action="store_true", help="the file resizes images as an evaluation does"
    )
    parser.add_argument(
        "--images", nargs="+", default=[], metavar="IMAGE", help="to compare on; else generated"
    )
    add_config_arguments(parser)
    return parser


if __name__ == "__main__":
    main()
