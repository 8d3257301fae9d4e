"""A folder of results that are replaced by later runs, while the files of others stay."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from ..engine.checkpoint_io import write_atomically

#: Size in bytes and time of change in nanoseconds of each file that runs have written.
MANIFEST = ".lite_focus_detr.json"


class OutputFolder:
    """Knows which files of a folder earlier runs have written."""

    def __init__(self, path: str | Path) -> None:
        """
        Args:
            path: of the folder, which need not exist.
        """
        self.path = Path(path)
        self._written = _read_manifest(self.path / MANIFEST)

    def require_free(self, names: Iterable[str]) -> None:
        """Check that no file would be lost.

        Args:
            names: of the files that will be written.

        Raises:
            ValueError: one of them is there and no run has written it, or somebody has changed it.
        """
        foreign = [
            name
            for name in names
            if (self.path / name).exists() and self._written.get(name) != self._state(name)
        ]
        if foreign:
            more = f", and {len(foreign) - 1} more" if len(foreign) > 1 else ""
            raise ValueError(
                f"{self.path / foreign[0]}{more}: would be overwritten, but is not of an earlier "
                "run; give another --output"
            )

    def note(self, names: Iterable[str]) -> None:
        """Remember files as written by this run."""
        for name in names:
            if (self.path / name).is_file():
                self._written[name] = self._state(name)
        content = json.dumps(self._written, indent=1).encode()
        write_atomically(str(self.path / MANIFEST), lambda file: file.write(content))

    def _state(self, name: str) -> list[int]:
        status = (self.path / name).stat()
        return [status.st_size, status.st_mtime_ns]


def unique_names(stems: Iterable[str], suffixes: Iterable[str]) -> list[str]:
    """Names of files, numbered where several would have the same.

    Args:
        stems: of the files.
        suffixes: of each of them.
    """
    names: list[str] = []
    taken: set[str] = set()
    for stem, suffix in zip(stems, suffixes, strict=True):
        name, number = f"{stem}{suffix}", 1
        # Some file systems take upper and lower case for the same.
        while name.lower() in taken:
            number += 1
            name = f"{stem}_{number}{suffix}"
        taken.add(name.lower())
        names.append(name)
    return names


def _read_manifest(path: Path) -> dict[str, list[int]]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
