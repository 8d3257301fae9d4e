"""Finds packages that an interrupted pip has left incomplete, so that it installs them again.

    .venv/bin/python dev/mend_environment.py

pip takes a package as installed once its metadata are there, whatever else is missing. The metadata
of a package whose list of files names some that do not exist, or have another size, are removed.
"""

from __future__ import annotations

import shutil
import sys
import sysconfig
from importlib.metadata import Distribution, distributions
from pathlib import Path


def main() -> None:
    """Remove the metadata of incomplete packages in the environment of this interpreter."""
    packages = Path(sysconfig.get_path("purelib"))
    for distribution in distributions(path=[str(packages)]):
        reason = fault(distribution)
        folder = getattr(distribution, "_path", None)
        if reason and folder is not None:
            sys.stdout.write(f"{folder.name} is incomplete ({reason}), it is installed again\n")
            shutil.rmtree(folder)
    for leftover in packages.glob("~*"):  # what pip moves away before it removes it
        shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()


def fault(distribution: Distribution) -> str:
    """What is wrong with the files of a package; empty if nothing is."""
    files = distribution.files
    if not files:
        return "it has no list of files"
    for file in files:
        path = Path(str(distribution.locate_file(file)))
        if path.suffix == ".pyc":
            continue
        if not path.exists():
            return f"{file} is missing"
        if file.size is not None and file.size != path.stat().st_size:
            return f"{file} has {path.stat().st_size} of {file.size} bytes"
    return ""


if __name__ == "__main__":
    main()
