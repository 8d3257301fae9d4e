"""Print registers and spills of every CUDA kernel; fail if there is none or a fast path spills.

python dev/check_cuda_registers.py build/nvcc.log
"""

# ruff: noqa: T201
from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

KERNEL = re.compile(
    r"Compiling entry function '(?P<name>[^']+)' for '(?P<architecture>\w+)'.*?"
    r"(?P<spilled>\d+) bytes spill stores.*?Used (?P<registers>\d+) registers",
    re.DOTALL,
)
# A name begins with void and the namespaces and ends with the parameters.
NAMESPACES = re.compile(r"^void |lite_focus::|\(anonymous namespace\)::")
PARAMETERS = re.compile(r"\([^()]*\)$")
# Traits<type, channels, points, ...>; zero where the kernel learns the size at run time.
FAST = re.compile(r"Traits<\w+, [1-9]")


def main(log: str) -> int:
    """Exit status for the output of nvcc in a file."""
    demangled = subprocess.run(
        ["c++filt"], input=Path(log).read_text(), capture_output=True, text=True, check=True
    )
    kernels = list(KERNEL.finditer(demangled.stdout))
    failures = 0 if kernels else 1
    for kernel in kernels:
        name = PARAMETERS.sub("", NAMESPACES.sub("", kernel["name"]))
        wrong = kernel["spilled"] != "0" and FAST.search(name) is not None
        failures += wrong
        print(
            f"{kernel['architecture']} {kernel['registers']:>4} registers "
            f"{kernel['spilled']:>4} bytes spilled  {name}{'  <- FAST PATH' if wrong else ''}"
        )
    print(f"{len(kernels)} CUDA kernels, {failures} failures")
    return min(failures, 1)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
