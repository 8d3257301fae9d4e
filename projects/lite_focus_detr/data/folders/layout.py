"""What the layouts of data folders have in common: the names of splits, and where images are."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

_WORDS = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}
# Those that supervision looks for.
_IMAGES = (".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")


def split_of(name: str) -> str | None:
    """The split that a file or folder name means: "train", "val", "test", or None.

    ``instances_val2017`` and ``valid`` are "val"; a name that means two splits means none.
    """
    words = re.findall(r"[a-z]+", name.lower())
    found = {_WORDS[word] for word in words if word in _WORDS}
    return found.pop() if len(found) == 1 else None


def split_folders(folder: Path) -> Iterator[tuple[str, Path]]:
    """The folders inside of one whose names mean a split, each with its split, sorted."""
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        split = split_of(path.name)
        if split is not None and path.is_dir():
            yield split, path


def has_files(folder: Path, suffix: str) -> bool:
    """Whether a folder exists and has files with a suffix."""
    return folder.is_dir() and any(path.suffix.lower() == suffix for path in folder.iterdir())


def images_of(folder: Path, *, below: bool = False) -> list[Path]:
    """Image files of a folder, sorted; none where there is no such folder.

    Args:
        folder: to look in.
        below: also look in the folders inside of it.
    """
    paths = folder.rglob("*") if below else folder.glob("*")
    return sorted(path for path in paths if path.suffix.lower() in _IMAGES and path.is_file())
