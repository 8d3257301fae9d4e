"""Speed and memory of the operators against the formulations that others use.

    lite-focus-detr benchmark op [--size encoder] [--rounds 5] [--device cuda]

All contenders of a case take turns in every round, so that a busy machine slows all of them; times
are medians over the rounds. On the CPU the ratios say how many times the contender takes as much as
the native operator, in wall-clock time, in processor time and in memory, which is the most that is
needed beyond the inputs. On a GPU the times are those of CUDA graphs, without the launches, and
stand beside the bytes that have to be moved and the time of a copy of as many.
"""

from __future__ import annotations

import argparse
from functools import partial

import torch
from tabulate import tabulate

from ... import ops
from . import cuda_operators, operators
from .measure import measure


def run(args: argparse.Namespace) -> None:
    """Measure every operator at the sizes of encoder and decoder and print a table per device."""
    available = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    for device in [args.device] if args.device else available:
        if device not in available:
            raise SystemExit("--device cuda: PyTorch sees no GPU")
        print(
            f"{device}, {args.dtype}, {ops.backend(device)} operators, "
            f"{torch.get_num_threads()} threads, median of {args.rounds} interleaved rounds"
        )
        sizes = args.size or [*operators.QUERIES]
        if device == "cuda":
            print(torch.cuda.get_device_name())
            cuda_operators.run(sizes, torch.device(device), args.dtype, args.rounds)
        else:
            _run_on_cpu(sizes, args.dtype, args.rounds)


def _run_on_cpu(sizes: list[str], dtype: str, rounds: int) -> None:
    rows = []
    for size in sizes:
        queries = operators.QUERIES[size]
        workloads = partial(operators.make_workloads, queries, "cpu", dtype)
        results = measure(workloads, rounds, "cpu")
        rows += [[size, *row] for row in operators.table(results)]
    headers = ["queries", "operator", "", "ms", "ratio", "CPU ratio", "peak MB", "ratio"]
    print(tabulate(rows, headers=headers, floatfmt=".1f"), flush=True)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.add_argument(
        "--size", action="append", choices=tuple(operators.QUERIES), help="default: all"
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), help="default: all that there are")
    parser.add_argument(
        "--dtype",
        choices=("float32", "bfloat16", "float16"),
        default="float32",
        help="of keys, values and queries; default float32",
    )
