"""Whole detectors: seconds per image and by part, as they are, optimised and of other libraries.

    lite-focus-detr benchmark model [--config-file NAME_OR_PATH ...] \
        [--image-size 480 800] [--export DIALECT ...] [--onnx FILE ...] [--training] \
        [--also-threads 1] [--markdown] [--opts KEY VALUE ...]

Detectors have random weights and see one image of noise. Of each configuration run

* "reference": with its operators as PyTorch formulations,
* the name of the native operators, such as "cpu": with these,
* "optimized": after ``optimize_for_inference``; likewise "bfloat16", where the processor has it,
  and "int8", on the CPU.

Beside them run the detectors exported in the dialects that --export names, such as ``standard``
and ``native``, and the files of ``export_model`` that --onnx names, in ONNX Runtime and, where it
is installed, OpenVINO, and where transformers is installed its Deformable DETR. With --training a
training step, the forward pass with the losses of a few boxes and the backward pass, takes the
place of inference. All run in as many threads as --threads says and, in rows of their own, in as
many as --also-threads says; the memory is that of the former.

All run in turn in every round, so that noise on the machine affects all of them alike; the first
round does not count. p50 and p95 are over the others, ratios are of the p50 and of the median
processor time to the first row. The parts are medians in milliseconds; "other" has the
preprocessing, the selection of detections and what lies between the parts.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import statistics
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from detectron2.config import CfgNode
from tabulate import tabulate

from ...analysis.latency import PartTimer
from ...engine import user_errors
from ...export.onnx_file import DIALECTS, Dialect, export_onnx
from ...model_zoo import get_config
from ..command_line import BASELINE
from .contenders import Contender, Name, make_contenders, short_names
from .encoders import add_detector_arguments, build_detector, heading
from .measure import bind_threads, kinds_of_operators, threads, timed
from .peak_memory import Workload, peak_memories

#: Parts of a detector, in the order in which they run.
PARTS = ("backbone", "neck", "encoder", "query_selector", "decoder")


class Runs(NamedTuple):
    """What was measured in N rounds."""

    seconds: npt.NDArray[np.float64]  #: (N,)
    cpu_seconds: npt.NDArray[np.float64]  #: (N,) processor time, all threads together
    parts: Mapping[str, float]  #: median seconds of each part; empty if unknown


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    parser.add_argument(
        "--config-file",
        action="append",
        metavar="NAME_OR_PATH",
        help=f"may be repeated; default {BASELINE}",
    )
    parser.add_argument("--onnx", action="append", default=[], metavar="FILE", help="likewise")
    parser.add_argument(
        "--export",
        nargs="+",
        choices=DIALECTS,
        default=[],
        metavar="DIALECT",
        help="export the detectors first, in these dialects, and run the files as well",
    )
    parser.add_argument("--training", action="store_true", help="training steps")
    parser.add_argument(
        "--also-threads",
        type=int,
        nargs="+",
        default=[],
        metavar="NUMBER",
        help="run everything in as many threads of the CPU as well",
    )
    parser.add_argument("--markdown", action="store_true", help="a table for a README")
    add_detector_arguments(parser)


def run(args: argparse.Namespace) -> None:
    """Measure and print the table."""
    names = args.config_file or [BASELINE]
    with user_errors():
        configs = {name: get_config(name, args.opts) for name in names}
        check_options(args)
        check_files(args.onnx)
    kinds = kinds_of_operators(args.device, args.native_only)
    with tempfile.TemporaryDirectory() as folder:
        with user_errors():
            files = [*args.onnx, *export_detectors(configs, args.export, Path(folder))]
        options = (configs, kinds, files, args.image_size, args.device, args.training)
        peaks = peak_memories(partial(make_workloads, *options), args.device)
        contenders = make_contenders(*options)
        for number in args.also_threads:
            contenders |= contenders_in_threads(number, *options)
        measured = run_rounds(contenders, args.rounds, args.device)
    print(heading("Training step" if args.training else "Inference", args))
    print(table(measured, peaks, "github" if args.markdown else "simple"))


def check_options(args: argparse.Namespace) -> None:
    """Raise a ValueError if options do not go together or mean nothing."""
    on_cpu = torch.device(args.device).type == "cpu"
    if args.also_threads and (not on_cpu or min(args.also_threads) < 1):
        raise ValueError("--also-threads takes numbers from 1 on, for --device cpu")
    if (args.export or args.onnx) and (args.training or not on_cpu):
        raise ValueError(
            "exported detectors run inference on the CPU: leave --export and --onnx out with "
            "--training or another --device"
        )


def check_files(paths: Sequence[str]) -> None:
    """Raise a ValueError if one of the files of ``--onnx`` cannot be run."""
    for path in paths:
        if not Path(path).is_file():
            raise ValueError(f"--onnx: there is no file {path}")
        if importlib.util.find_spec("onnxruntime") is not None:
            importlib.import_module("lite_focus_detr.export.runtime").open_file(path)


def export_detectors(
    configs: Mapping[str, CfgNode], dialects: Sequence[Dialect], folder: Path
) -> list[str]:
    """Write the detectors of configurations as ONNX files; returns their paths.

    Raises:
        ValueError: see :func:`export_onnx`.
    """
    files, names = [], short_names(configs)
    for config, cfg in configs.items() if dialects else ():
        model = build_detector(cfg, "cpu")
        for dialect in dialects:
            path = str(folder / f"{names[config].replace('/', '_')}_{dialect}.onnx")
            export_onnx(model, path, dialect=dialect)
            files.append(path)
    return files


def contenders_in_threads(number: int, *options: Any) -> dict[Name, Contender]:
    """Those of :func:`make_contenders` in ``number`` threads of the CPU, which their kind names."""
    # Runtimes of exported files take the number when they are opened.
    with threads(number):
        found = make_contenders(*options)
    kind_suffix = f", {number} thread{'s' if number > 1 else ''}"
    return {
        (name, kind + kind_suffix): contender._replace(
            workload=bind_threads(contender.workload, number)
        )
        for (name, kind), contender in found.items()
    }


def make_workloads(*options: Any) -> dict[Name, Workload]:
    """The workloads of :func:`make_contenders`."""
    return {name: contender.workload for name, contender in make_contenders(*options).items()}


def run_rounds(contenders: Mapping[Name, Contender], rounds: int, device: str) -> dict[Name, Runs]:
    """Run all in turn, ``rounds`` times and once before."""
    times: dict[Name, list[tuple[float, float]]] = {name: [] for name in contenders}
    parts: dict[Name, list[dict[str, float]]] = {name: [] for name in contenders}
    for round_number in range(rounds + 1):
        for name, (workload, model) in contenders.items():
            with nullcontext() if model is None else PartTimer(model, PARTS) as timer:
                measured = timed(workload, device)
            if round_number > 0:
                times[name].append(measured)
                parts[name].append({} if timer is None else timer.seconds)
    return {
        name: Runs(*np.array(times[name]).T, _medians(parts[name]))  # type: ignore[call-arg]
        for name in contenders
    }


def _medians(parts: Sequence[Mapping[str, float]]) -> dict[str, float]:
    return {name: statistics.median(x[name] for x in parts) for name in parts[0]}


def table(measured: Mapping[Name, Runs], peaks: Mapping[Name, int | None], style: str) -> str:
    """One row for each contender.

    Args:
        measured: the first is what the others are divided by.
        peaks: bytes that each needs beyond weights and input, as far as known.
        style: of ``tabulate``.
    """
    headers = ["model", "kind", "p50 ms", "p95 ms", "images/s", "ratio", "CPU ratio", "peak MB"]
    headers += [*PARTS, "other"]
    first = next(iter(measured.values()))
    rows = []
    for name, runs in measured.items():
        median, slow = np.quantile(runs.seconds, [0.5, 0.95])
        ratios = (median / np.median(first.seconds), _median_ratio(runs, first))
        peak = peaks.get(name)
        row: list[object] = [*name, 1e3 * median, 1e3 * slow, 1 / median, *ratios]
        row.append("-" if peak is None else round(peak / 1e6))
        if runs.parts:
            parts = [*(runs.parts[part] for part in PARTS), median - sum(runs.parts.values())]
            row += [round(1e3 * seconds) for seconds in parts]
        rows.append([*row, *["-"] * (len(headers) - len(row))])
    precision = ("", "", ".0f", ".0f", ".2f", ".2f", ".2f", ".0f")
    return str(tabulate(rows, headers=headers, tablefmt=style, floatfmt=precision))


def _median_ratio(runs: Runs, first: Runs) -> float:
    return float(np.median(runs.cpu_seconds) / np.median(first.cpu_seconds))
