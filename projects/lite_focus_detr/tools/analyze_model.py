"""Parameters, GFLOPs and activation memory of detectors by part, as tables and as a plot.

    lite-focus-detr analyze --config-file NAME_OR_PATH [--opts KEY VALUE ...]
    lite-focus-detr analyze --plot layouts.png
    lite-focus-detr analyze --pareto budgets.png --weights PATH \
        [--config-file NAME_OR_PATH] [--opts KEY VALUE ...]
    lite-focus-detr analyze --fit 24GB --config-file NAME_OR_PATH \
        [--opts KEY VALUE ...]

``--config-file`` takes a file or a name of the model zoo and may be repeated; without it the tables
are of the detector of ``--weights``, and the plot shows all encoders on DINO with ResNet-50.

``--pareto`` takes one trained detector whose encoder selects tokens and evaluates it with several
budgets on ``DATASETS.TEST``: AP over GFLOPs and over the measured time, as a table and a picture.

``--fit`` says how large a batch of the training fits into a memory, with and without checkpointing
and half precision: predicted from a few steps with small images on the CPU.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from detectron2.modeling import build_model
from matplotlib.figure import Figure
from tabulate import tabulate

from .. import model_zoo, ops
from ..analysis.activation_memory import measure_activation_memory
from ..analysis.complexity import measure_complexity
from ..config import ConfigFile
from ..engine import user_errors
from .command_line import (
    add_opts_argument,
    add_weights_arguments,
    config_of,
    encoder_configs,
    options_with_weights,
    output_errors,
    picture_file,
)
from .memory_plan import parse_memory, print_plans
from .pareto import pareto

#: Rows of the table: what users call a part -> modules of the detector.
ROWS: dict[str, tuple[str, ...]] = {
    "backbone": ("backbone",),
    "neck": ("neck",),
    "encoder": ("encoder",),
    "query selection": ("proposal_head", "query_selector"),
    "decoder": ("decoder", "heads"),
}


class Analysis(NamedTuple):
    """Costs of one detector for one image, by row of the table and ``total``."""

    parameters: dict[str, float]
    flops: dict[str, float]  #: multiply-adds
    activations: dict[str, float]  #: bytes; empty if they were not measured


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command. Exits with one line on stderr if a configuration is wrong."""
    args = _parser().parse_args(arguments)
    with user_errors():
        files = _configs(args)
        picture = picture_file(args.plot) if args.plot else None
    if args.pareto:
        pareto(files[0], options_with_weights(args), args.pareto)
        return
    if args.fit:
        for file in files:
            print_plans(file, args.opts, args.fit)
        return
    analyses = {}
    for file in files:
        name = Path(str(file)).stem
        analyses[name] = analyze(
            file, args.opts, *args.image_size, with_activations=not (args.plot or args.fast)
        )
        print(f"\n{name}, one image of {args.image_size[0]}x{args.image_size[1]}")
        print(table(analyses[name]))
    if picture is not None:
        figure = plot({name: analysis.flops for name, analysis in analyses.items()})
        with output_errors("--plot"):
            figure.savefig(picture)
        print(f"\nThe plot is in {picture}")


def _configs(args: argparse.Namespace) -> Sequence[ConfigFile]:
    files: Sequence[ConfigFile] = args.config_file or ()
    if not files and args.weights:
        files = [config_of(args)]
    if args.pareto and (len(files) != 1 or not args.weights):
        raise ValueError("--pareto needs --weights, and one --config-file if they hold none")
    if not files and not args.plot:
        raise ValueError("give --config-file, --weights, or --plot for all encoders")
    return files or encoder_configs()


def analyze(
    config_file: ConfigFile, options: list[str], height: int, width: int, *, with_activations: bool
) -> Analysis:
    """Build a detector with random weights and measure it.

    Args:
        config_file: a file, a name in the model zoo, or what a checkpoint holds.
        options: ``KEY VALUE ...``, applied after the file.
        height: of the image in pixels.
        width: of the image in pixels.
        with_activations: also run it as in training, which takes memory.
    """
    with user_errors():
        cfg = model_zoo.get_config(config_file, options)
        cfg.MODEL.DEVICE = "cpu"
        model = build_model(cfg)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        complexity = measure_complexity(model, height, width)
    activations = measure_activation_memory(model, height, width) if with_activations else {}
    return Analysis(_by_row(complexity.parameters), _by_row(complexity.flops), _by_row(activations))


def _by_row(parts: Mapping[str, float]) -> dict[str, float]:
    if not parts:
        return {}
    rows = {row: sum(parts.get(part, 0) for part in names) for row, names in ROWS.items()}
    # The total has also what belongs to no part, such as the denoising embedding.
    return {**rows, "total": parts["total"]}


def table(analysis: Analysis) -> str:
    """One row per part of the detector."""
    headers = ["part", "parameters (M)", "GFLOPs"]
    columns = [(analysis.parameters, 1e6), (analysis.flops, 1e9)]
    if analysis.activations:
        headers.append(f"activations (MB, {ops.backend('cpu')} operators)")
        columns.append((analysis.activations, 1e6))
    rows = [[row, *(values[row] / unit for values, unit in columns)] for row in (*ROWS, "total")]
    return str(tabulate(rows, headers=headers, floatfmt=".2f"))


def plot(flops: Mapping[str, Mapping[str, float]]) -> Figure:
    """Stacked bars of GFLOPs by part, one bar per detector, the most expensive on top."""
    names = sorted(flops, key=lambda name: flops[name]["total"])
    figure = Figure(figsize=(9, 1.5 + 0.35 * len(names)), layout="constrained")
    axes = figure.add_subplot()
    left = [0.0] * len(names)
    for row in ROWS:
        widths = [flops[name][row] / 1e9 for name in names]
        axes.barh(names, widths, left=left, label=row)
        left = [start + width for start, width in zip(left, widths, strict=True)]
    for index, total in enumerate(left):
        axes.text(total, index, f" {total:.3g}", va="center")
    axes.set_xlabel("GFLOPs (multiply-adds) for one image")
    axes.margins(x=0.08)
    figure.legend(loc="outside upper center", ncols=len(ROWS))
    return figure


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="lite-focus-detr analyze",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--config-file", action="append", metavar="NAME_OR_PATH", help="may be repeated"
    )
    parser.add_argument("--plot", metavar="FILE", help="write GFLOPs as a picture")
    parser.add_argument("--pareto", metavar="FILE", help="picture of AP over the costs of budgets")
    parser.add_argument(
        "--fit", type=parse_memory, metavar="24GB", help="which batches can be trained with it"
    )
    add_weights_arguments(parser)
    parser.add_argument(
        "--image-size",
        type=int,
        nargs=2,
        default=(850, 1040),
        metavar=("HEIGHT", "WIDTH"),
        help="850 1040 stands for the mean of COCO's validation set",
    )
    parser.add_argument("--fast", action="store_true", help="do not measure activation memory")
    add_opts_argument(parser)
    return parser


if __name__ == "__main__":
    main()
