"""Measurements of speed and memory.

lite-focus-detr benchmark op          the attention operators and their peers
lite-focus-detr benchmark encoder     the encoders
lite-focus-detr benchmark layer       an encoder layer
lite-focus-detr benchmark model       whole detectors, optimised ones and others'
lite-focus-detr benchmark accelerate  models of transformers
"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence

import torch

from .measure import processor

# The module of a command is imported for it: the operators need no detectron2.
_COMMANDS = {
    "op": "operator_command",
    "encoder": "encoders",
    "layer": "layer",
    "model": "models",
    "accelerate": "acceleration",
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command that ``arguments``, or the command line, name."""
    parser = argparse.ArgumentParser(
        prog="lite-focus-detr benchmark",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True)
    given = sys.argv[1:] if arguments is None else [*arguments]
    for name, module_name in _COMMANDS.items():
        if given[:1] != [name]:
            commands.add_parser(name)
            continue
        module = importlib.import_module(f".{module_name}", __package__)
        command = commands.add_parser(
            name,
            description=module.__doc__,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        command.add_argument(
            "--rounds", type=int, default=5, help="timed runs of each; default %(default)s"
        )
        command.add_argument(
            "--threads", type=int, help="of the CPU; default: as many as PyTorch chooses"
        )
        module.add_arguments(command)
        command.set_defaults(run=module.run)
    args = parser.parse_args(given)
    if args.threads is not None:
        torch.set_num_threads(args.threads)
    print(f"{processor()}, {torch.get_num_threads()} threads, PyTorch {torch.__version__}")
    args.run(args)


if __name__ == "__main__":
    main()
