"""Files that are written in one step."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO


@contextmanager
def atomic_file(path: str | Path) -> Iterator[IO[str]]:
    """A text file that takes its place when it is complete; after an error nothing has changed.

    Processes that start together may write the same content.

    Args:
        path: to write or replace; its folder is made.
    """
    folder, name = os.path.split(path)
    os.makedirs(folder or ".", exist_ok=True)
    suffix = os.path.splitext(name)[1]
    with tempfile.NamedTemporaryFile(
        "w", dir=folder or ".", suffix=suffix, delete=False, encoding="utf-8"
    ) as file:
        try:
            yield file
            file.close()
            os.replace(file.name, path)
        finally:
            if os.path.exists(file.name):
                os.remove(file.name)
