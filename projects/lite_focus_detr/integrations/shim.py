"""Run a script of a published repository without its CUDA extension.

    python -m lite_focus_detr.integrations.shim SCRIPT [ARGUMENTS]

The script sees the arguments and the import path that it would see as ``python SCRIPT ARGUMENTS``.
Its imports of ``MultiScaleDeformableAttention`` and ``groundingdino._C`` find the operators of this
package, unless the extensions are installed; those of the former also in processes that the script
starts, with whatever start method.
"""

from __future__ import annotations

import argparse
import runpy
import sys
from collections.abc import Sequence
from pathlib import Path

from . import stand_ins
from .extension_modules import install_shims


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the script that ``arguments``, or the command line, name."""
    parser = argparse.ArgumentParser(
        prog="python -m lite_focus_detr.integrations.shim",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("script", help="the Python file to run")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help="its own arguments")
    args = parser.parse_args(arguments)
    script = Path(args.script)
    if not script.is_file():
        parser.error(f"there is no script {args.script}")
    sys.argv = [args.script, *args.arguments]
    sys.path[0] = str(script.resolve().parent)
    install_shims()
    # What is in sys.modules only a fork has; the import path goes to all children.
    sys.path.append(stand_ins.__path__[0])
    runpy.run_path(args.script, run_name="__main__")


if __name__ == "__main__":
    main()
