"""Build the wheel that serves every Python, and check that it may say so.

    python dev/build_wheel.py --output dist

The libraries hold no symbol of Python and none of a libc newer than that of manylinux_2_28, which
auditwheel confirms; those of PyTorch are not bundled, because they are loaded with it.
``FORCE_CUDA=1`` adds the library for the CUDA of the PyTorch that is installed. The trained weights
are left out: with them it would be twice as large. So are, with 0.35 MB, the operators for ONNX
Runtime, unless ``ONNXRUNTIME_INCLUDE`` names the folder of their header.
"""

# ruff: noqa: T201
from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[1]
PLATFORM = "manylinux_2_28_x86_64"
#: The wheel without CUDA is no larger.
LARGEST = 3 * 2**20


def run(*command: str | Path) -> str:
    """What a command prints; raises CalledProcessError if it fails."""
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        print(done.stdout + done.stderr, file=sys.stderr)
        done.check_returncode()
    return done.stdout


def libraries(wheel: Path, folder: Path) -> list[Path]:
    """The compiled libraries of a wheel, unpacked."""
    with zipfile.ZipFile(wheel) as archive:
        names = [name for name in archive.namelist() if name.endswith(".so")]
        return [Path(archive.extract(name, folder)) for name in names]


def python_symbols(library: Path) -> list[str]:
    """Symbols of Python that a library takes from others."""
    return re.findall(r" U (_?Py\w+)", run("nm", "-D", library))


def glibc_of(wheel: Path) -> tuple[int, int]:
    """The oldest libc that the symbols of a wheel allow, as auditwheel sees it."""
    shown = run(Path(sys.executable).with_name("auditwheel"), "show", wheel)
    found = re.search(r"constrains the platform tag to\s+\"manylinux_(\d+)_(\d+)_", shown)
    # Without such a line the oldest of all is enough.
    return (int(found[1]), int(found[2])) if found else (2, 5)


def without_weights(wheel: Path, folder: Path) -> Path:
    """Pack a wheel into another folder without the trained weights in it."""
    run(sys.executable, "-m", "wheel", "unpack", wheel, "--dest", folder / "contents")
    (contents,) = (folder / "contents").iterdir()
    for path in contents.glob("*/checkpoints/*.pth"):
        path.unlink()
    run(sys.executable, "-m", "wheel", "pack", contents, "--dest-dir", folder)
    (packed,) = folder.glob("*.whl")
    return packed


def build(output: Path) -> Path:
    """Build the wheel into a folder."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        # What an earlier build left there would become part of the wheel.
        for stale in (ROOT / "build").glob("lib*"):
            shutil.rmtree(stale)
        os.environ.setdefault("ONNXRUNTIME_INCLUDE", "none")
        flags = ("--no-build-isolation", "--no-deps", "--wheel-dir", folder)
        run(sys.executable, "-m", "pip", "wheel", *flags, ROOT)
        (complete,) = folder.glob("*.whl")
        plain = without_weights(complete, folder / "packed")
        tags = ["--python-tag", "py3", "--abi-tag", "none", "--platform-tag", PLATFORM]
        if any(path.name == "_cuda.so" for path in libraries(plain, folder / "unpacked")):
            tags += ["--build", f"1cu{(torch.version.cuda or '').partition('.')[0]}"]
        run(sys.executable, "-m", "wheel", "tags", *tags, "--remove", plain)
        (tagged,) = plain.parent.glob("*.whl")
        output.mkdir(parents=True, exist_ok=True)
        return Path(shutil.move(tagged, output / tagged.name))


def problems(wheel: Path) -> list[str]:
    """Why the wheel must not be published as it is."""
    found = []
    with tempfile.TemporaryDirectory() as folder:
        paths = libraries(wheel, Path(folder))
        if not any(path.name == "_cpu.so" for path in paths):
            found.append("it has no library for the CPU: see the output of `pip install -v .`")
        for path in paths:
            symbols = python_symbols(path)
            if symbols:
                found.append(f"{path.name} needs {', '.join(symbols[:3])} of Python")
        if len(paths) == 1 and wheel.stat().st_size > LARGEST:
            found.append(f"it has {wheel.stat().st_size} bytes, more than {LARGEST}")
    if paths and glibc_of(wheel) > (2, 28):
        found.append(f"it needs a newer libc than {PLATFORM} has")
    return found


def main(argv: list[str] | None = None) -> int:
    """Exit status: 1 if the wheel is not what its name says."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--output", type=Path, default=ROOT / "dist")
    options = parser.parse_args(argv)
    wheel = build(options.output)
    wrong = problems(wheel)
    for line in wrong:
        print(f"{wheel.name}: {line}", file=sys.stderr)
    libc = ".".join(map(str, glibc_of(wheel)))
    print(f"{wheel}: {wheel.stat().st_size / 2**20:.1f} MB, libc {libc}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
