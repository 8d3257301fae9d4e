"""Measurements of speed and memory.

python -m lite_focus_detr.tools.benchmark op        the attention operators and their peers
python -m lite_focus_detr.tools.benchmark encoder   the encoders
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from . import benchmark_encoder, benchmark_operators


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command that ``arguments``, or the command line, name."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    for name, module in (("op", benchmark_operators), ("encoder", benchmark_encoder)):
        command = commands.add_parser(
            name,
            description=module.__doc__,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        module.add_arguments(command)
        command.set_defaults(run=module.run)
    args = parser.parse_args(arguments)
    args.run(args)


if __name__ == "__main__":
    main()
